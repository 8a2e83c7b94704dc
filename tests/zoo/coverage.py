"""Prunes models of the zoo, and counts the cut units whose readers `podar.compensate` solves anew.

A unit counts where it is an output of a convolution or a linear layer. It is covered where a parameter reads it, and
all that read it can be solved; the others are listed by reason.

python -m tests.zoo.coverage [SOURCE [NAME …]] [--target channels=0.5] [--json FILE]
"""

from __future__ import annotations

import argparse
import copy
import json
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

import podar
from podar.compensation.computed import Computed
from podar.compensation.readings import Parameters, Reading, Watch
from podar.compensation.repairing import NOT_WHOLE, TABLE, unsolvable
from podar.model.batches import run
from tests.zoo.models import FURTHER, NAMES, build
from tests.zoo.run import one

GOAL = 0.9
NOBODY = "no parameter reads the outputs of"

SAMPLE = {
    "torchvision": [
        "resnet18", "resnet50", "resnext50_32x4d", "densenet121", "mobilenet_v2", "mobilenet_v3_small",
        "efficientnet_b0", "convnext_tiny", "vit_b_32", "swin_t", "regnet_y_400mf", "shufflenet_v2_x0_5", "googlenet",
        "vgg11_bn",
    ],
    "timm": [
        "deit_tiny_patch16_224", "test_vit", "test_convnext", "test_efficientnet", "test_vit_relpos", "mobilevit_xxs",
        "levit_128s", "ghostnet_050", "sequencer2d_s", "swiftformer_xs", "test_nfnet", "test_mambaout", "resnest14d",
    ],
    "ultralytics": ["yolo26n", "yolo11n", "yolov8n"],
    "transformers": ["bert", "gpt2", "llama", "vit", "t5", "wav2vec2", "mixtral", "clip"],
}  # fmt: skip


def covered(source: str, name: str, target: str) -> dict[str, Any]:
    """How many cut units of one model have readers that can be solved; plain data."""
    model, inputs = build(source, name)
    dense = copy.deepcopy(model)
    result = podar.prune(model, inputs, target, scope="local")
    graph, removed = result.graph, result.graph.removed_units(result.plan)
    left = solvable(model, dense, inputs)
    layers = {f"{n}.weight": m for n, m in dense.named_modules() if isinstance(getattr(m, "weight", None), Tensor)}
    outputs = {n: axis for n, m in layers.items() if (axis := _output(m)) is not None}
    counts, reasons = Counter[str](), Counter[str]()
    for number, family in enumerate(graph.families):
        members = graph.families.members.get(number, [])
        gone = int(removed[family.units].sum())
        if not gone or not any(outputs.get(n) == d for n, d in members):
            continue
        readers = sorted({n for n, d in members if n in left and d != outputs.get(n, 0)})
        why = next((f"{n}: {left[n]}" for n in readers if left[n] is not None), None)
        why = f"{NOBODY}: {members[0][0]}" if not readers else why
        counts["all"] += gone
        counts["covered"] += gone if why is None else 0
        if why is not None:
            reasons[why] += gone
    total = max(counts["all"], 1)
    return {
        "units": counts["all"], "covered": counts["covered"] / total,
        "reasons": [(why, n / total) for why, n in reasons.most_common(6)],
    }  # fmt: skip


def solvable(pruned: nn.Module, dense: nn.Module, inputs: Any) -> dict[str, str | None]:
    """Each parameter that reads something, and why `podar.compensate` leaves it as it is; None where it is solved."""
    (own, computed, tables), (other, _, _) = _readings(pruned, inputs), _readings(dense, inputs)
    found = dict.fromkeys(computed, NOT_WHOLE) | {n: unsolvable(reading, other.get(n)) for n, reading in own.items()}
    return found | dict.fromkeys(tables & own.keys(), TABLE)


def _readings(model: nn.Module, inputs: Any) -> tuple[dict[str, Reading], set[str], set[str]]:
    """The readings of a model, and the parameters that it reads through computed weights, or looks up."""
    found: dict[str, Reading] = {}
    parameters = Parameters(model)

    def met(reading: Reading) -> None:
        found[reading.name] = reading

    computed = Computed(parameters)

    def done(func: Any, args: Any, out: Any, reading: Reading | None) -> None:
        if reading is None:
            computed.done(func, args, out)

    with torch.no_grad(), Watch(parameters, met, done):
        run(model, inputs)
    return found, computed.found, computed.looked_up


def _output(module: nn.Module) -> int | None:
    """The axis of a layer's weight that lists its outputs; None for what is no convolution and no linear layer."""
    if isinstance(module, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        return 1
    if isinstance(module, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)):
        return 0
    return 1 if type(module).__name__ == "Conv1D" else None


def main() -> None:
    """Run what was asked for; exit code 1 where a model misses the goal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("source", nargs="?")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--target", default="channels=0.5")
    parser.add_argument("--every", action="store_true", help="all models of the zoo and those further")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    every = {s: [*names, *FURTHER.get(s, ())] for s, names in NAMES.items()}
    chosen = [
        (source, name)
        for source, names in (every if options.every else SAMPLE).items()
        if options.source in (None, source)
        for name in (options.names or names)
    ]
    console = Console(width=220)
    rows = []
    for source, name in chosen:
        row = one(source, name, options.target, work=covered)
        rows.append(row)
        if "error" in row:
            console.print(f"{source:<12} {name:<24} {row['error']}", markup=False, highlight=False)
            continue
        why = "; ".join(f"{share:.1%} {reason}" for reason, share in row["reasons"][:3])
        text = f"{row['covered']:6.1%} of {row['units']:5} units"
        console.print(f"{source:<12} {name:<24} {text}  {why}", markup=False, highlight=False)
    good = [row for row in rows if row.get("covered", 0.0) >= GOAL]
    console.print(f"{len(good)} of {len(rows)} models have solved readers of at least {GOAL:.0%} of their cut units")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    raise SystemExit(len(good) < len(rows))


if __name__ == "__main__":
    main()
