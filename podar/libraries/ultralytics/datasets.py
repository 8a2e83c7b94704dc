"""Opens a data.yaml of Ultralytics (for classify a folder of folders), and says what is wrong with it beforehand."""

from __future__ import annotations

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from podar.errors import PodarError, UsageError, nearest
from podar.libraries import LibraryData
from podar.libraries.ultralytics.caches import read_cache, use_plain_caches
from podar.libraries.ultralytics.files import write_checkpoint
from podar.libraries.ultralytics.heads import head_of, with_head
from podar.libraries.ultralytics.models import make_ready
from podar.libraries.ultralytics.samples import IMPORTANCE, Samples, loss_of
from podar.libraries.ultralytics.training import said, train
from podar.trust.plain import read_yaml

SHAPED = {"segment": "polygons", "obb": "rotated rectangles of four corners"}
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
_BOX = 5  # words of a label that is a box: class, centre, width, height


def open_data(model: Any, spec: str, side: int | None) -> LibraryData:
    """Check a data set against a model's task, and give everything that a run does with it.

    **Arguments:** `side`: of the images in pixels; None: what the model was trained with, else 640.

    **Raises:** `UsageError` for a side that is no multiple of the model's stride; `PodarError` for missing or empty
    folders, labels of another task, classes outside `names`, corrupt images.
    """
    make_ready()
    use_plain_caches()
    side = side or _side_of(model)
    stride = max(int(getattr(model, "stride", [32])[-1]) if hasattr(model, "stride") else 32, 32)
    if side % stride:
        near = max(round(side / stride), 1) * stride
        raise UsageError(f"--imgsz {side} is no multiple of the model's stride {stride}: give {near}.")
    task = getattr(model, "task", "detect")
    found = _classify(spec) if task == "classify" else _detect(spec, task, side)
    wanted: dict[str, Any] = {"nc": found["nc"]}
    if task == "pose":
        wanted["data_kpt_shape"] = tuple(found["kpt_shape"])
    names = dict(found["names"])

    def fit(given: Any) -> Any:
        fitted = with_head(given, **wanted)
        fitted.names = names
        return fitted

    model_args = wanted if head_of(model) != {**head_of(model), **wanted} else {}
    about = f"{spec}: {len(names)} classes, at {side}×{side}"
    return LibraryData(
        name=Path(spec).parent.name if spec.endswith((".yaml", ".yml")) else Path(spec).name,
        about=about,
        side=side,
        model_args=model_args,
        fit=fit,
        train=lambda trained, **options: train(trained, str(Path(spec).resolve()), side, **options),
        evaluate=partial(evaluate, spec=spec, side=side),
        samples=lambda scored: (Samples(scored, str(Path(spec).resolve()), side), loss_of(scored)),
        pictures=partial(pictures, found=found, side=side),
        importance=IMPORTANCE,
    )


def evaluate(model: Any, spec: str, side: int) -> dict[str, float]:
    """Ultralytics' own validation on the data's `val`: `map50`, `map50_95`, and the task's own figures.

    Masks are `mask_map50`, `mask_map50_95`, key points `pose_map50`, `pose_map50_95`, classes `accuracy`.
    """
    make_ready()
    from ultralytics import YOLO

    with tempfile.TemporaryDirectory(prefix="podar-val-") as folder:
        yolo = YOLO(str(write_checkpoint(model, Path(folder) / "model.pt")))
        options = {"data": str(Path(spec).resolve()), "imgsz": side, "project": folder, "name": "val"}
        try:
            result = yolo.val(**options, plots=False, verbose=False, workers=0)
        except Exception as error:
            raise PodarError(f"Ultralytics could not validate on {spec}: {said(error)}") from error
    values = result.results_dict
    return {ours: float(values[theirs]) for theirs, ours in _METRICS.items() if theirs in values}


def pictures(dense: Any, model: Any, folder: Path, found: dict[str, Any], side: int) -> list[dict[str, str]]:
    """A few validation images with both models' answers drawn in by Ultralytics: dense left, pruned right."""
    make_ready()
    import numpy as np
    from PIL import Image
    from ultralytics import YOLO

    images = [p for p in _images(found["val"]) if p.is_file()][:_PICTURES]
    shown: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="podar-pictures-") as scratch:
        pair = [
            YOLO(str(write_checkpoint(given, Path(scratch) / f"{name}.pt")))
            for name, given in (("dense", dense), ("pruned", model))
        ]
        for number, path in enumerate(images):
            answers: list[Any] = [next(iter(yolo.predict(str(path), imgsz=side, verbose=False))) for yolo in pair]
            halves = [answer.plot(line_width=1, font_size=8)[..., ::-1] for answer in answers]
            name = f"pictures/{number:02d}.png"
            (folder / "pictures").mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(np.concatenate(halves, axis=1))).save(folder / name)
            counts = [_count(answer) for answer in answers]
            shown.append({"file": name, "caption": f"{path.name}: before {counts[0]}, after {counts[1]}"})
    return shown


def _count(answer: Any) -> str:
    if answer.probs is not None:
        return str(answer.names[answer.probs.top1])
    boxes = answer.boxes if answer.boxes is not None else answer.obb
    return f"{len(boxes)} found"


def _side_of(model: Any) -> int:
    own = getattr(model, "args", None) or {}
    size = own.get("imgsz") if isinstance(own, dict) else getattr(own, "imgsz", None)
    return int(size) if isinstance(size, (int, float)) else 224 if getattr(model, "task", "") == "classify" else 640


def _classify(spec: str) -> dict[str, Any]:
    from ultralytics.data.utils import IMG_FORMATS

    root = Path(spec)
    if root.suffix in (".yaml", ".yml"):
        raise PodarError(
            f"{spec}: a classifier of Ultralytics takes a folder with train/CLASS and val/CLASS, no data.yaml, so "
            "these labels are of another task."
        )
    found: dict[str, list[str]] = {}
    for split in ("train", "val"):
        folder = root / split
        if not folder.is_dir():
            raise PodarError(
                f"{root} has no folder {split}: Ultralytics reads {root}/train/CLASS and {root}/val/CLASS."
            )
        found[split] = sorted(p.name for p in folder.iterdir() if p.is_dir())
        for path in folder.rglob("*"):
            if path.suffix[1:].lower() in IMG_FORMATS:
                _refuse_damaged(path)
        if not any(path.suffix[1:].lower() in IMG_FORMATS for path in folder.rglob("*")):
            raise PodarError(f"{folder} holds no images.")
    strangers = sorted(set(found["val"]) - set(found["train"]))
    if strangers:
        raise PodarError(f"{root}/val has the class {strangers[0]!r}, which {root}/train has not.")
    return {"nc": len(found["train"]), "names": dict(enumerate(found["train"])), "val": str(root / "val")}


def _detect(spec: str, task: str, side: int) -> dict[str, Any]:
    from ultralytics.data.utils import check_det_dataset

    path = Path(spec).expanduser()
    if not path.is_file():
        near = nearest(path.name, [p.name for p in path.parent.iterdir()]) if path.parent.is_dir() else None
        raise PodarError(f"there is no data set {spec}" + (f"; did you mean {path.with_name(near)}?" if near else "."))
    content = read_yaml(path)
    for key in ("train", "val", "names"):
        if not isinstance(content, dict) or not content.get(key):
            raise PodarError(f"{spec} is no data set of Ultralytics: {key}: is missing.")
    if task == "pose" and not content.get("kpt_shape"):
        raise PodarError(f"{spec} has no kpt_shape:, so its labels are of another task than pose.")
    if task != "pose" and content.get("kpt_shape"):  # Ultralytics would take the key points for outlines
        raise PodarError(f"{spec} has a kpt_shape:, so its labels are of another task than {task}: key points.")
    try:
        data: dict[str, Any] = check_det_dataset(str(path.resolve()), autodownload=False)
    except Exception as error:
        raise PodarError(f"{spec}: {said(error)}") from error
    for split in ("train", "val"):
        _check_labels(spec, split, data, task, side)
    return data


def _check_labels(spec: str, split: str, data: dict[str, Any], task: str, side: int) -> None:
    """Let Ultralytics read every image and label, which it does before training anyway, and look at what it says."""
    from ultralytics.data.dataset import YOLODataset

    for place in data[split] if isinstance(data[split], list) else [data[split]]:
        if not Path(place).exists():
            raise PodarError(f"{spec}: {split}: there is no {place}.")
    if not any(True for _ in _images(data[split])):
        raise PodarError(f"{spec}: {split}: {data[split]} holds no images.")
    try:
        read = YOLODataset(img_path=data[split], imgsz=side, augment=False, data=data, task=task, batch_size=1)
    except Exception as error:
        cause = _complaint(data, data[split], task)
        raise PodarError(f"{spec}: {cause or said(error)}") from error
    cache = Path(read.label_files[0]).parent.with_suffix(".cache")
    if cache.is_file():
        kept = read_cache(cache)
        corrupt = kept["results"][3]
        if corrupt:
            first = next((said(ValueError(m)) for m in kept["msgs"] if "corrupt" in m), "")
            cause = _complaint(data, data[split], task) or f"the label of {first}"
            raise PodarError(f"{spec}: {split} has {corrupt} damaged images or labels, first {cause}")
    if not any(len(label["cls"]) for label in read.labels):
        raise PodarError(f"{spec}: no image of {split} has a label: labels/… lie beside images/….")
    if task in SHAPED and any(len(label["cls"]) != len(label["segments"]) for label in read.labels):
        # an older Ultralytics, which takes them in silence
        cause = _complaint(data, data[split], task) or f"labels of {split} are boxes: {task} needs {SHAPED[task]}."
        raise PodarError(f"{spec}: {cause}")


def _complaint(data: dict[str, Any], place: Any, task: str) -> str:
    """The first image or label at fault, where Ultralytics names none, or no line; "" where all look right here."""
    for image in _images(place):
        _refuse_damaged(image)
        label = Path(str(image).replace("/images/", "/labels/")).with_suffix(".txt")
        if not label.is_file():
            continue
        for number, line in enumerate(label.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
            word = line.split()[:1]
            if word and word[0].isdigit() and int(word[0]) >= data["nc"]:
                return f"{label} line {number} is of the class {word[0]}, and names: has {data['nc']}."
            if task in SHAPED and len(line.split()) == _BOX:
                return f"{label} line {number} is a box, so of another task: {task} needs {SHAPED[task]}."
    return ""


def _refuse_damaged(path: Path) -> None:
    from PIL import Image

    try:
        with Image.open(path) as image:
            image.verify()
    except Exception as error:
        raise PodarError(f"the image {path} is damaged, or is no image: remove it or put it right.") from error


def _images(place: Any):
    """Every image under a folder, or named by a list file, or under several of either."""
    from ultralytics.data.utils import IMG_FORMATS

    for one in place if isinstance(place, (list, tuple)) else [place]:
        path = Path(one)
        if path.is_dir():
            yield from sorted(p for p in path.rglob("*") if p.suffix[1:].lower() in IMG_FORMATS)
        elif path.is_file():
            lines = path.read_text(encoding="utf-8").split("\n")
            yield from (path.parent / line if line.startswith("./") else Path(line) for line in lines if line.strip())
