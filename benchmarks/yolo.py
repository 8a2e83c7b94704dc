"""Pruning YOLOs to half of the MACs at 320 px: seconds, sizes and ONNX Runtime latency, beside Torch-Pruning.

python benchmarks/yolo.py [--json benchmarks/yolo.json] [--limit 200] [--models yolo26n …]

Torch-Pruning runs in a process of its own, as its README says, and is stopped after the limit; without the package
(pip install torch-pruning) its column says so.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import shlex
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from podar import runs
from podar.files import write_atomic
from podar.integrations.ultralytics import blueprint, fused_cost, prune
from podar.integrations.ultralytics.exporting import export
from podar.measuring import compare, latency_ratio, processor

MODELS = ("yolo26n", "yolo26s", "yolo26m", "yolo11n", "yolov8n")
SIDE, TARGET = 320, 0.5


def ours(name: str) -> dict[str, Any]:
    """Trace, prune, verify; then export both and run them in turn."""
    torch.manual_seed(0)
    dense, pruned = (blueprint(f"{name}.yaml", {}, False).make() for _ in range(2))
    x = torch.rand(1, 3, SIDE, SIDE)
    prune(blueprint(f"{name}.yaml", {}, False).make(), x, f"macs={TARGET}")  # the first call also imports
    start = time.perf_counter()
    result = prune(pruned, x, f"macs={TARGET}", multiple_of=8)
    seconds = time.perf_counter() - start
    with tempfile.TemporaryDirectory() as folder:
        files = {s: export(m, Path(folder), s, x, "onnx").path for s, m in (("before", dense), ("after", pruned))}
        both = compare(files, x, threads=1, seconds=5)
    return {
        "seconds": seconds,
        "params": [result.before.params, result.after.params],
        "macs": [result.before.macs, result.after.macs],
        "fused_params": [fused_cost(dense, x).params, fused_cost(pruned, x).params],
        "latency_ms": [both[half].latency_ms["p50"] for half in ("before", "after")],
        "latency_ratio": latency_ratio(both["before"], both["after"]),
    }


def theirs(name: str, limit: float) -> dict[str, Any]:
    """Torch-Pruning's magnitude pruner with half of the channels."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_torch_pruning, args=(name, sender))
    process.start()
    found: dict[str, Any] = {"error": f"no answer in {limit:g} s"}
    if receiver.poll(limit):
        try:
            found = receiver.recv()
        except EOFError:
            found = {"error": "its process died"}
    process.terminate()
    process.join()
    return found


def _torch_pruning(name: str, pipe: Any) -> None:
    try:
        import torch_pruning  # pyright: ignore[reportMissingImports]

        model = blueprint(f"{name}.yaml", {}, False).make()
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        x = torch.rand(1, 3, SIDE, SIDE)
        start = time.perf_counter()
        last = max((n for n, _ in model.named_modules() if n.count(".") == 1), key=lambda n: int(n.split(".")[1]))
        importance = torch_pruning.importance.MagnitudeImportance()
        pruner = torch_pruning.pruner.MagnitudePruner(
            model, x, importance, pruning_ratio=0.5, ignored_layers=[m for n, m in model.named_modules() if n == last]
        )
        pruner.step()
        seconds = time.perf_counter() - start
        with torch.no_grad():
            model.eval()(x)
        pipe.send({"seconds": seconds, "params": sum(p.numel() for p in model.parameters())})
    except BaseException as error:
        pipe.send({"error": f"{type(error).__name__}: {str(error)[:200]}"})


def main() -> None:
    """Measure every model, and write JSON where asked."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--limit", type=float, default=200, help="seconds a model for Torch-Pruning")
    parser.add_argument("--models", nargs="+", default=MODELS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for name in asked.models:
        found[name] = {"podar": ours(name), "torch-pruning": theirs(name, asked.limit)}
        print(name, json.dumps(found[name]), flush=True)
    if asked.json:
        told = {
            "command": shlex.join(["python", *sys.argv]),
            "side": SIDE,
            "target": f"macs={TARGET}",
            "processor": processor().to_json(),
            "versions": runs.versions(),
            "models": found,
        }
        write_atomic(asked.json, json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
