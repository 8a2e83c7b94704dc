"""Validates a model by Ultralytics' own validator, and draws what it finds in some validation images."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from podar.data.pictures.writing import write_picture
from podar.errors import PodarError
from podar.libraries.ultralytics.datasets import YoloData, images_in
from podar.libraries.ultralytics.files import write_checkpoint
from podar.libraries.ultralytics.ready import make_ready, said

_METRICS = {
    "metrics/mAP50(B)": "map50",
    "metrics/mAP50-95(B)": "map50_95",
    "metrics/mAP50(M)": "mask_map50",
    "metrics/mAP50-95(M)": "mask_map50_95",
    "metrics/mAP50(P)": "pose_map50",
    "metrics/mAP50-95(P)": "pose_map50_95",
    "metrics/accuracy_top1": "accuracy",
    "metrics/accuracy_top5": "accuracy_top5",
}
_PICTURES = 6


def evaluate(model: Any, spec: str, side: int) -> dict[str, float]:
    """Ultralytics' own validation on the data's `val`: `map50`, `map50_95`, and the task's own figures.

    Masks are `mask_map50`, `mask_map50_95`, key points `pose_map50`, `pose_map50_95`, classes `accuracy`.
    """
    make_ready()
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory(prefix="podar-val-") as folder:
        return _validated(YOLO(str(write_checkpoint(model, Path(folder) / "model.pt"))), folder, spec, side)


def evaluate_file(file: Path, task: str, spec: str, side: int) -> dict[str, float]:
    """The same of an exported file, picture by picture: such a file takes one at a time."""
    make_ready()
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory(prefix="podar-val-") as folder:
        return _validated(YOLO(str(file), task=task, verbose=False), folder, spec, side, batch=1, rect=False)


def _validated(yolo: Any, folder: str, spec: str, side: int, **settings: Any) -> dict[str, float]:
    options = {"data": str(Path(spec).resolve()), "imgsz": side, "project": folder, "name": "val", **settings}
    try:
        result = yolo.val(**options, plots=False, verbose=False, workers=0)
    except Exception as error:
        raise PodarError(f"Ultralytics could not validate on {spec}: {said(error)}") from error
    values = result.results_dict
    return {ours: float(values[theirs]) for theirs, ours in _METRICS.items() if theirs in values}


def pictures(dense: Any, model: Any, data: YoloData, folder: Path) -> list[dict[str, str]]:
    """A few validation images with both models' answers drawn in by Ultralytics: dense left, pruned right."""
    make_ready()
    import numpy as np
    from ultralytics import YOLO

    images = [p for p in images_in(data.validation) if p.is_file()][:_PICTURES]
    shown: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="podar-pictures-") as scratch:
        pair = [
            YOLO(str(write_checkpoint(given, Path(scratch) / f"{name}.pt")))
            for name, given in (("dense", dense), ("pruned", model))
        ]
        for number, path in enumerate(images):
            answers: list[Any] = [next(iter(yolo.predict(str(path), imgsz=data.side, verbose=False))) for yolo in pair]
            halves = [answer.plot(line_width=1, font_size=8)[..., ::-1] for answer in answers]
            name = f"pictures/{number:02d}.png"
            write_picture(folder / name, np.ascontiguousarray(np.concatenate(halves, axis=1)))
            counts = [_count(answer) for answer in answers]
            shown.append({"file": name, "caption": f"{path.name}: before {counts[0]}, after {counts[1]}"})
    return shown


def _count(answer: Any) -> str:
    if answer.probs is not None:
        return str(answer.names[answer.probs.top1])
    boxes = answer.boxes if answer.boxes is not None else answer.obb
    return f"{len(boxes)} found"
