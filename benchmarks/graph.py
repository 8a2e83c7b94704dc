"""Trace and prune at half of the channels, beside Torch-Pruning, in turn, on one thread.

pip install --no-deps --target /some/folder torch-pruning==1.6.0
python benchmarks/graph.py --peer /some/folder     measures; writes graph.json and the table in docs/benchmarks.md
python benchmarks/graph.py --table                 renders the table again from graph.json
"""

from __future__ import annotations

import argparse
import copy
import functools
import gc
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_pruning_peer import halve, output_layers, torch_pruning

import podar
from podar.files import write_atomic
from podar.measuring.processors import processor
from tests.zoo.models import build

HERE = Path(__file__)
RESULT = HERE.with_suffix(".json")
DOCUMENT = HERE.parent.parent / "docs" / "benchmarks.md"
BESIDE = ["resnet50", "densenet121", "efficientnet_b0", "mobilenet_v2", "convnext_tiny"]
ALONE = [
    *(("torchvision", n) for n in ("resnet18", "mobilenet_v3_small", "shufflenet_v2_x1_0", "vit_b_16", "swin_t")),
    *(("timm", n) for n in ("deit_tiny_patch16_224", "mobilevit_xxs")),
    *(("ultralytics", n) for n in ("yolo26n", "yolo11n", "yolov8n")),
    *(("transformers", n) for n in ("bert", "llama")),
]


def ours(model: nn.Module, inputs: Any) -> None:
    """What podar does by default, verification included."""
    podar.prune(model, inputs, "channels=0.5", scope="local")


def seconds(prune: Callable[[nn.Module, Any], None], model: nn.Module, inputs: Any) -> float:
    """Wall-clock time of pruning a fresh copy."""
    fresh = copy.deepcopy(model)
    gc.collect()
    start = time.perf_counter()
    prune(fresh, inputs)
    return time.perf_counter() - start


def measure(rounds: int, folder: Path) -> dict[str, Any]:
    """Rounds of A, B, A, B … for each model; the first round warms up and is not counted."""
    peer = torch_pruning(folder)
    beside: dict[str, Any] = {}
    for name in BESIDE:
        model, inputs = build("torchvision", name)
        theirs = functools.partial(halve, peer, outputs=output_layers(copy.deepcopy(model), inputs))
        laps = [(seconds(ours, model, inputs), seconds(theirs, model, inputs)) for _ in range(rounds + 1)][1:]
        beside[name] = {
            "podar_s": statistics.median(a for a, _ in laps),
            "torch_pruning_s": statistics.median(b for _, b in laps),
            "ratio": statistics.median(b / a for a, b in laps),
        }
        print(name, beside[name], flush=True)
    alone: dict[str, float] = {}
    for source, name in ALONE:
        model, inputs = build(source, name)
        alone[f"{source}:{name}"] = statistics.median([seconds(ours, model, inputs) for _ in range(4)][1:])
        print(name, alone[f"{source}:{name}"], flush=True)
    return {
        "beside": beside,
        "median_ratio": statistics.median(row["ratio"] for row in beside.values()),
        "alone_s": alone,
        "rounds": rounds,
        "threads": 1,
        "command": f"python benchmarks/graph.py --rounds {rounds} --peer FOLDER",
        "processor": processor().to_json(),
        "versions": {
            "python": platform.python_version(),
            "podar": podar.__version__,
            "torch-pruning": "1.6.0",
            **{name: version(name) for name in ("torch", "torchvision", "timm", "transformers", "ultralytics")},
        },
    }


def table(found: dict[str, Any]) -> str:
    """The page of docs that shows the result."""
    rows = [
        f"| {name} | {row['podar_s']:.3f} s | {row['torch_pruning_s']:.3f} s | {row['ratio']:.1f} |"
        for name, row in found["beside"].items()
    ]
    others = [f"| {name} | {took:.3f} s |" for name, took in found["alone_s"].items()]
    where = f"{found['processor'].get('name', 'unknown processor')}, one thread"
    return "\n".join(
        [
            "# Benchmarks",
            "",
            "## Trace and prune at half of the channels",
            "",
            f"`{found['command']}`, {where}, torch {found['versions']['torch']}. podar's time includes verifying.",
            "Medians over rounds in which both took turns; the ratio is the median of the rounds' ratios.",
            "",
            "| model | podar | Torch-Pruning 1.6.0 | times faster |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            f"Median ratio: **{found['median_ratio']:.1f}**.",
            "",
            "| model | podar |",
            "| --- | --- |",
            *others,
            "",
        ]
    )


def main() -> None:
    """Measure or render."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the folder that holds Torch-Pruning")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--table", action="store_true", help="only render the table")
    options = parser.parse_args()
    if not options.table:
        if options.peer is None:
            parser.error("--peer FOLDER is missing")
        torch.set_num_threads(1)
        write_atomic(RESULT, json.dumps(measure(options.rounds, options.peer), indent=1) + "\n")
    write_atomic(DOCUMENT, table(json.loads(RESULT.read_text(encoding="utf-8"))))


if __name__ == "__main__":
    main()
