"""What a cut costs YOLO26n on composed scenes, and what the same MACs give when the stock architecture is narrowed.

python benchmarks/yolo_accuracy.py [--seeds 0 1 2] [--cells dense pruned-0.6 …]   trains what yolo_accuracy.json lacks
python benchmarks/yolo_accuracy.py --cuts    of the first seed: mAP right after the cut, by criterion and scope
python benchmarks/yolo_accuracy.py --table   renders the tables in docs/yolo.md from the JSON (the others do, too)

For each seed: the dense model from scratch; cut to 0.6 and 0.4 of its MACs and trained again, with and without
distillation from the dense one; and rivals: yolo26n with a lesser width multiple of Ultralytics' own, of the same MACs,
trained from scratch for as many epochs as both trainings took together. Weights of the last epoch count, so that no
choice is made on the validation scenes. Every finished cell is written to the JSON at once; a later call goes on.
Weights stay under runs/; a dense model whose weights are gone is trained again when a cell needs them
(its figure stays: other cells came from it).
"""

from __future__ import annotations

import argparse
import copy
import json
import shutil
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
import yaml

from podar.data.scenes import compose
from podar.files import write_atomic
from podar.libraries.ultralytics import (
    fastest_on_cpu,
    fused_cost,
    make_ready,
    open_model,
    prune,
    save_pruned,
    trainer,
)
from podar.libraries.ultralytics.cutting import trace_model
from podar.libraries.ultralytics.exporting import export
from podar.libraries.ultralytics.validation import evaluate
from podar.measuring import compare, latency_ratio, processor
from podar.pruning.options import SCOPES
from podar.runs import running
from podar.runtimes.onnxruntime import session

MODEL, SIDE, SCENES = "yolo26n.yaml", 160, (800, 300)
EPOCHS, AGAIN = 36, 14  # of the dense training, and after a cut
# nbs: a step every batch (Ultralytics' own 64 would make one of four); scenes hold several things, so no mosaics.
HOW = {"batch": 16, "nbs": 16, "optimizer": "AdamW", "lr0": 0.002, "warmup_epochs": 1.0, "mosaic": 0.0, "cache": "ram"}
RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parent.parent / "docs" / "yolo.md"
MARKS = ("<!-- benchmarks/yolo_accuracy.py writes what follows -->\n", "<!-- end of accuracy -->\n")
CELLS = (
    "dense",
    *(f"{how}-{kept}" for kept in (0.6, 0.4) for how in ("pruned", "narrowed", "distilled")),
)


def train(model: str | Path, data: Path, folder: Path, epochs: int, seed: int, **more: Any) -> dict[str, Any]:
    """Train by Ultralytics (podar's trainer keeps a pruned shape); the last weights go to `folder`.pt."""
    make_ready()
    from ultralytics import YOLO

    yolo = YOLO(str(model))
    yolo.add_callback("on_train_start", fastest_on_cpu)
    said: dict[str, Any] = {}

    def keep(trained: Any) -> None:
        said.update(arithmetic=getattr(trained, "podar_arithmetic", "fp32"), epochs=trained.epoch + 1)

    yolo.add_callback("on_train_end", keep)
    start = time.perf_counter()
    where = {"data": str(data), "project": str(folder.parent.resolve()), "name": folder.name, "exist_ok": True}
    quiet = {"workers": 0, "plots": False, "verbose": False, "val": False, "pretrained": False}
    if Path(model).suffix == ".pt":
        del quiet["pretrained"]
    yolo.train(trainer=trainer(), epochs=epochs, imgsz=SIDE, seed=seed, **where, **HOW, **quiet, **more)
    shutil.copy(folder / "weights" / "last.pt", weights(folder))
    return {**said, "train_seconds": time.perf_counter() - start}


def weights(folder: Path) -> Path:
    """Where the last weights of a training go: pruned-0.6.pt beside pruned-0.6 (a suffix of which is .6)."""
    return folder.with_name(f"{folder.name}.pt")


@cache
def narrowed(macs: int, classes: int) -> tuple[float, dict[str, Any]]:
    """Width multiple, and configuration, of the stock architecture whose MACs come nearest."""
    config = copy.deepcopy(open_model(MODEL, {}, False).make().yaml)  # type: ignore[union-attr]
    depth, width, most = config["scales"][config["scale"]]
    found: dict[float, tuple[float, dict[str, Any]]] = {}
    for step in range(40, 100):
        tried = {**config, "scales": {config["scale"]: [depth, width * step / 100, most]}}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / MODEL
            path.write_text(yaml.safe_dump(tried))
            model = open_model(str(path), {"nc": classes}, False).make()
        distance = abs(costs(model)["macs"] - macs)
        found.setdefault(distance, (width * step / 100, tried))
    return found[min(found)]


def costs(model: Any) -> dict[str, int]:
    """In training, and as deployed (batch norms folded away, one of two heads dropped)."""
    x = torch.zeros(1, 3, SIDE, SIDE)
    cost, fused = trace_model(model, x).cost(), fused_cost(model, x)
    return {"params": cost.params, "macs": cost.macs, "fused_params": fused.params, "fused_macs": fused.macs}


def load(path: Path) -> Any:
    """The model of a checkpoint."""
    return open_model(str(path), {}, False).make()


def cell(name: str, seed: int, data: Path, folder: Path, dense: Path) -> dict[str, Any]:
    """Train one model, validate it, and measure it beside the dense one."""
    how, _, kept = name.partition("-")
    out = folder / name
    notes: dict[str, Any] = {}
    if how == "dense":
        notes |= train(MODEL, data, out, EPOCHS, seed)
    else:
        macs = costs(load(dense))["macs"]
        if how == "narrowed":
            width, config = narrowed(round(macs * float(kept)), load(dense).model[-1].nc)
            path = folder / f"width-{kept}" / MODEL
            write_atomic(path, yaml.safe_dump(config))
            notes |= {"width_multiple": width, **train(path, data, out, EPOCHS + AGAIN, seed)}
        else:
            model = load(dense)
            prune(model, torch.zeros(1, 3, SIDE, SIDE), f"macs={kept}", multiple_of=8, data=data)
            cut = save_pruned(model, folder / f"{name}-cut.pt", {"imgsz": SIDE})
            notes["cut_map50_95"] = evaluate(model, str(data), SIDE)["map50_95"]
            teacher = {"distill_model": str(dense)} if how == "distilled" else {}
            notes |= train(cut, data, out, AGAIN, seed, **teacher)
    model = load(weights(out))
    found = {**costs(model), **evaluate(model, str(data), SIDE), **notes}
    if how != "dense":
        found |= latency(load(dense), model)
    return found


def latency(dense: Any, model: Any) -> dict[str, Any]:
    """Latency of both in ONNX Runtime, one thread, in turn: medians, and the quickest runs (nobody slowed them)."""
    x = torch.rand(1, 3, SIDE, SIDE)
    with tempfile.TemporaryDirectory() as folder:
        pair = {"before": dense, "after": model}
        files = {half: export(given, Path(folder), half, x, "onnx").path for half, given in pair.items()}
        both = compare(files, x, threads=1, seconds=10)
        fastest = quickest(files, x)
    return {
        "quickest_ms": {"dense": fastest["before"], "this": fastest["after"]},
        "latency_ms": {"dense": both["before"].latency_ms["p50"], "this": both["after"].latency_ms["p50"]},
        "latency_ratio": latency_ratio(both["before"], both["after"]),
    }


def quickest(files: dict[str, Path], x: torch.Tensor, rounds: int = 400) -> dict[str, float]:
    """Milliseconds of the quickest of many runs, the files taking turns."""
    sessions = {name: session(path, threads=1) for name, path in files.items()}
    laps: dict[str, list[float]] = {name: [] for name in files}
    for _ in range(rounds):
        for name, opened in sessions.items():
            start = time.perf_counter()
            opened.run(None, {"images": x.numpy()})
            laps[name].append(1000 * (time.perf_counter() - start))
    return {name: min(taken) for name, taken in laps.items()}


def cuts(dense: Path, data: Path, kept: float = 0.6) -> dict[str, float]:
    """mAP50-95 right after a cut, nothing trained, by criterion and scope."""
    found: dict[str, float] = {}
    for importance in ("taylor", "magnitude", "bn-scale"):
        for scope in SCOPES:
            model = load(dense)
            given = {"importance": importance, "scope": scope, "data": data}
            prune(model, torch.zeros(1, 3, SIDE, SIDE), f"macs={kept}", multiple_of=8, **given)
            found[f"{importance}, {scope}"] = evaluate(model, str(data), SIDE)["map50_95"]
            print(importance, scope, found[f"{importance}, {scope}"], flush=True)
    return found


def tables(told: dict[str, Any]) -> str:
    """The part of docs/yolo.md that shows the result."""
    kinds = {"pruned": "pruned", "distilled": "pruned, `distill_model=` the dense one", "narrowed": "stock, narrowed"}
    names = {"dense": "dense"}
    for kept in (0.6, 0.4):
        names |= {f"{how}-{kept}": f"{text}, {kept} of the MACs" for how, text in kinds.items()}
    rows: list[str] = []
    for name, text in names.items():
        cells = [cell for key, cell in told["cells"].items() if key.partition("/")[2] == name]
        if cells:
            quality = " ".join(f"{cell['map50_95']:.3f}" for cell in cells)
            cut = " ".join(f"{cell['cut_map50_95']:.3f}" for cell in cells if "cut_map50_95" in cell)
            fastest = [cell["quickest_ms"] for cell in cells if "quickest_ms" in cell]
            laps = " ".join(f"{run['this'] / run['dense']:.2f} ({run['this']:.1f} ms)" for run in fastest)
            size = f"{cells[0]['fused_params'] / 1e6:.2f} M | {cells[0]['fused_macs'] / 1e6:.0f} M"
            rows.append(f"| {text} | {cells[0]['epochs']} | {cut} | {quality} | {size} | {laps} |")
    training, where = told["training"], told["processor"].get("name", "unknown processor")
    found = [
        f"`{told['command']}`: {told['data']}; {training['epochs']} epochs, {training['epochs_again']} after the cut,",
        "the narrowed rival gets the sum; a number a seed; parameters and MACs as deployed; latency in ONNX Runtime,",
        f"one thread, quickest of runs in turn, as a fraction of dense; {where}.",
        "",
        "| model | epochs | mAP50-95 after the cut | trained | parameters | MACs | latency |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        *rows,
        "",
    ]
    if told.get("cuts"):
        found += [
            "What the criteria leave of that detector at 0.6 of the MACs before anything is trained (`--cuts`):",
            "",
            f"| criterion | {' | '.join(SCOPES)} |",
            f"| --- |{' --- |' * len(SCOPES)}",
        ]
        for importance in dict.fromkeys(key.partition(", ")[0] for key in told["cuts"]):
            values = (told["cuts"].get(f"{importance}, {scope}") for scope in SCOPES)
            found.append(f"| {importance} | " + " | ".join("" if v is None else f"{v:.3f}" for v in values) + " |")
        found.append("")
    return "\n".join(found)


def render(told: dict[str, Any]) -> None:
    """Put the tables into the page."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(MARKS[0])
    write_atomic(PAGE, before + MARKS[0] + tables(told) + MARKS[1] + rest.split(MARKS[1], 1)[1])


def main() -> None:
    """Fill in the cells that the JSON does not have yet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", action="store_true", help="compare criteria and scopes, train nothing but dense")
    parser.add_argument("--table", action="store_true", help="only render the tables")
    parser.add_argument("--seeds", type=int, nargs="+", default=(0, 1, 2))
    parser.add_argument("--cells", nargs="+", choices=CELLS, default=CELLS)
    parser.add_argument("--out", type=Path, default=Path("runs/yolo_accuracy"), help="for scenes and weights")
    asked = parser.parse_args()
    told: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.is_file() else {"cells": {}}
    if asked.table:
        render(told)
        return
    data = asked.out / "scenes" / "data.yaml"
    if not data.is_file():
        compose(data.parent, scenes=SCENES, side=SIDE)
    told |= {
        "command": "python benchmarks/yolo_accuracy.py",
        "data": f"{SCENES[0]} + {SCENES[1]} scenes of Fashion-MNIST photographs, {SIDE} px",
        "training": {**HOW, "epochs": EPOCHS, "epochs_again": AGAIN},
        "processor": processor().to_json(),
        "versions": running.versions(),
    }
    if asked.cuts:
        asked.seeds, asked.cells = asked.seeds[:1], ("dense",)
    for seed in asked.seeds:
        folder = asked.out / f"seed-{seed}"
        dense = folder / "dense.pt"
        for name in asked.cells:
            key = f"seed-{seed}/{name}"
            if key in told["cells"]:
                continue
            if name != "dense" and not dense.is_file():
                told["cells"].setdefault(f"seed-{seed}/dense", cell("dense", seed, data, folder, dense))
            if key not in told["cells"]:
                told["cells"][key] = cell(name, seed, data, folder, dense)
            print(key, json.dumps(told["cells"][key]), flush=True)
            kept = json.loads(RESULT.read_text())["cells"] if RESULT.is_file() else {}  # of another process
            told["cells"] = dict(sorted({**kept, **told["cells"]}.items()))
            write_atomic(RESULT, json.dumps(told, indent=1) + "\n")
        if asked.cuts:
            if not dense.is_file():
                cell("dense", seed, data, folder, dense)
            told["cuts"] = cuts(dense, data)
            write_atomic(RESULT, json.dumps(told, indent=1) + "\n")
    render(told)


if __name__ == "__main__":
    main()
