"""Predicted beside measured latency of plans, and what half of the MACs is worth where a plan knows latency.

    python benchmarks/latency.py                all: writes latency.json after each network, then the page of the docs
    python benchmarks/latency.py plans|speed    one part
    python benchmarks/latency.py page           the page alone, docs/benchmarks-latency.md, from latency.json

plans: four plans of each of five networks, in ONNX Runtime and OpenVINO, on one thread. Each plan's latency is
predicted from its fused layers, each measured alone, brought to what the whole dense network takes; then the smaller
network is exported and measured in turn with the dense one. speed: ResNet-18 and ResNet-50 at half of the MACs, where
latency is the second target. Weights are random: they change no latency.
"""

from __future__ import annotations

import copy
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import podar
from podar.demo.network import ResNet
from podar.files import write_atomic
from podar.graph.cost import Shares
from podar.latency.prices import Prices, liked
from podar.latency.serving import serving, write_quickly
from podar.latency.table import Table
from podar.measuring import processor
from podar.model.torchvision_operators import import_torchvision

RESULT = Path(__file__).with_suffix(".json")
PAGE = Path(__file__).parents[1] / "docs" / "benchmarks-latency.md"
RUNTIMES = ("onnxruntime", "openvino")
NETWORKS = ("resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "demo")
PLANS = (
    ("macs=0.75", "global"), ("macs=0.5", "global"), ("macs=0.3", "global"), ("macs=0.5", "local"),
)  # fmt: skip
HALF = "macs=0.5, latency<=0.58"


def network(name: str) -> tuple[nn.Module, Tensor]:
    """A network with random weights, and an input of its usual size."""
    torch.manual_seed(0)
    if name == "demo":
        return ResNet().eval(), torch.rand(1, 1, 28, 28)
    import_torchvision()
    from torchvision import models

    return getattr(models, name)().eval(), torch.rand(1, 3, 224, 224)


def plans(name: str) -> Iterator[dict[str, Any]]:
    """A row for each plan and runtime."""
    model, x = network(name)
    graph = podar.trace(model, x)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.onnx"
        write_quickly(model, file, x)
        prices = {}
        for runtime in RUNTIMES:
            here = serving(runtime, 1)
            table = Table(here.version, 1, here.processor)
            prices[runtime] = Prices(graph, model, x, table, here, here.opened_file(file, x))
        for target, scope in PLANS:
            smaller = copy.deepcopy(model)
            cut = podar.prune(smaller, x, target, scope=scope, widths=liked("onnxruntime", here=True))
            file = Path(folder) / "smaller.onnx"
            write_quickly(smaller, file, x)
            for runtime, own in prices.items():
                assert own.serving is not None
                start = time.perf_counter()
                predicted = own.predicted(graph, Shares(cut.allocation.share))
                measured = own.timed(own.serving.opened_file(file, x))
                yield {
                    "network": name, "target": target, "scope": scope, "runtime": runtime,
                    "macs_kept": cut.after.macs / cut.before.macs, "dense_ms": own.dense_ms,
                    "predicted_ms": predicted, "measured_ms": measured, "error": predicted / measured - 1,
                    "seconds": time.perf_counter() - start,
                }  # fmt: skip


def speed(name: str) -> dict[str, Any]:
    """How much faster half of the MACs is."""
    model, x = network(name)
    start = time.perf_counter()
    found = podar.prune(model, x, HALF, runtime="onnxruntime")
    return {
        "network": name, "target": HALF, "macs_kept": found.after.macs / found.before.macs,
        "params_kept": found.after.params / found.before.params, **found.latency.to_json(),
        "times_faster": found.latency.dense / found.latency.measured, "seconds": time.perf_counter() - start,
    }  # fmt: skip


def summed_up(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The middle and the largest error, of all and of each runtime."""
    found = {}
    for runtime in ("all", *RUNTIMES):
        errors = [abs(row["error"]) for row in rows if runtime in ("all", row["runtime"])]
        if errors:
            found[runtime] = {"plans": len(errors), "median": statistics.median(errors), "worst": max(errors)}
    return found


def page(found: dict[str, Any]) -> str:
    """The page of the docs."""
    rows = [
        "# Latency: predicted and measured",
        "",
        f"Printed by `{found['command']}` on {found['processor']['name']}, one thread; "
        + ", ".join(f"{name} {version}" for name, version in found["versions"].items())
        + ". [Latency as a target](latency.md) says how it is predicted.",
        "",
    ]
    errors = summed_up(found["plans"])
    for runtime, own in errors.items():
        rows.append(
            f"- {runtime}: {own['plans']} plans, the middle error {own['median']:.1%}, the largest {own['worst']:.1%}"
        )
    rows += ["", "| network | plan | runtime | dense | predicted | measured | error |", "|---|---|---|--:|--:|--:|--:|"]
    for row in found["plans"]:
        rows.append(
            f"| {row['network']} | {row['target']}, {row['scope']} | {row['runtime']} | {row['dense_ms']:.2f} ms | "
            f"{row['predicted_ms']:.2f} ms | {row['measured_ms']:.2f} ms | {100 * row['error']:+.1f} % |"
        )
    rows += ["", "Half of the MACs, in ONNX Runtime:", ""]
    rows += ["| network | targets | MACs kept | dense | measured | times faster |", "|---|---|--:|--:|--:|--:|"]
    for row in found["speed"]:
        rows.append(
            f"| {row['network']} | {row['target']} | {100 * row['macs_kept']:.1f} % | {row['dense']:.1f} ms | "
            f"{row['measured']:.1f} ms | {row['times_faster']:.2f} |"
        )
    return "\n".join(rows) + "\n"


def main() -> None:
    """Run what the command line asks for."""
    asked = sys.argv[1:]
    unknown = [part for part in asked if part not in ("plans", "speed", "page", *NETWORKS)]
    if unknown:
        sys.exit(f"{unknown[0]} is none of plans, speed, page, {', '.join(NETWORKS)}")
    found: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"plans": [], "speed": []}
    parts = [part for part in asked if part not in NETWORKS] or ["plans", "speed"]
    networks = [name for name in NETWORKS if name in asked] or NETWORKS
    if parts != ["page"]:
        found["command"] = shlex.join(["python", "benchmarks/latency.py"])
        found["processor"] = processor().to_json()
        found["versions"] = {"podar": podar.__version__, "torch": torch.__version__}
        for runtime in RUNTIMES:
            found["versions"][runtime] = serving(runtime, 1).version.partition(" ")[2]
    for name in networks if "plans" in parts else ():
        rows = []
        for row in plans(name):
            rows.append(row)
            print(json.dumps(row), flush=True)
        found["plans"] = _in_order([r for r in found["plans"] if r["network"] != name] + rows)
        write_atomic(RESULT, json.dumps(found, indent=1) + "\n")
    for name in ("resnet18", "resnet50") if "speed" in parts else ():
        if name in networks:
            row = speed(name)
            print(json.dumps(row), flush=True)
            found["speed"] = _in_order([r for r in found["speed"] if r["network"] != name] + [row])
            write_atomic(RESULT, json.dumps(found, indent=1) + "\n")
    print(json.dumps(summed_up(found["plans"]), indent=1))
    write_atomic(PAGE, page(found))


def _in_order(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: NETWORKS.index(row["network"]))


if __name__ == "__main__":
    main()
