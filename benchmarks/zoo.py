"""Seconds to trace and to prune every model of the zoo on one thread, beside Torch-Pruning, and how time grows.

pip install --no-deps --target /some/folder torch-pruning==1.6.0
python benchmarks/zoo.py [--peer /some/folder]    measures; writes zoo.json, zoo.svg and docs/benchmarks-zoo.md
python benchmarks/zoo.py --table                  renders the page again from zoo.json

Each model runs in a process of its own, both tools in turn on fresh copies. Torch-Pruning has 40 s a model.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time
import warnings
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch_pruning_peer import halve, output_layers, torch_pruning

import podar
from podar.files import write_atomic
from podar.measuring.processors import processor
from podar.model.inputs import call, named_tensors
from tests.zoo.models import NAMES, build

HERE = Path(__file__)
RESULT, PLOT = HERE.with_suffix(".json"), HERE.with_suffix(".svg")
PAGE = HERE.parent.parent / "docs" / "benchmarks-zoo.md"
REPEATS = 3  # the fastest counts
PEER_LIMIT = 40  # seconds a model
LONG = 5  # seconds: what takes longer is not repeated


def native_version() -> str:
    """Its loops sum and cut the weights where it is installed."""
    try:
        return version("podar-native")
    except PackageNotFoundError:
        return "not installed"


def seconds(model: nn.Module, inputs: Any) -> dict[str, float]:
    """Trace alone, then the whole of `podar.prune` (trace, plan, cut, check)."""
    start = time.perf_counter()
    podar.trace(model, inputs)
    traced = time.perf_counter() - start
    start = time.perf_counter()
    result = podar.prune(model, inputs, "channels=0.5", scope="local")
    pruned = time.perf_counter() - start
    return {"trace": traced, "prune": pruned, "kept": result.after.params / result.before.params}


def peer_seconds(peer: Any, model: nn.Module, inputs: Any, outputs: list[str]) -> float:
    """Torch-Pruning on the same model.

    **Raises:** `RuntimeError`: it ran, but removed nothing, or the smaller model does not run, or its outputs changed
    shape.
    """
    wanted, before = _shapes(model, inputs), sum(p.numel() for p in model.parameters())
    start = time.perf_counter()
    halve(peer, model, inputs, outputs)
    took = time.perf_counter() - start
    if _shapes(model, inputs) != wanted or sum(p.numel() for p in model.parameters()) >= before:
        raise RuntimeError("outputs changed, or nothing went")
    return took


def _shapes(model: nn.Module, inputs: Any) -> list[tuple[int, ...]]:
    with torch.no_grad():
        return [tuple(t.shape) for _, t in named_tensors(call(model, inputs))]


def _child(pipe: Any, source: str, name: str, peer: Path | None) -> None:
    model, inputs = build(source, name)
    rows, theirs, error = [], [], ""
    tool = torch_pruning(peer) if peer else None
    outputs = output_layers(copy.deepcopy(model), inputs) if peer else []  # models cache things when they run
    for turn in range(REPEATS):
        rows.append(seconds(copy.deepcopy(model), inputs))
        if turn == 0:
            pipe.send(rows[0])
        if peer is None or error or sum(theirs) > LONG:
            continue
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(None):
                warnings.simplefilter("ignore")
                theirs.append(peer_seconds(tool, copy.deepcopy(model), inputs, outputs))
        except Exception as failure:
            error = f"{type(failure).__name__}: {str(failure)[:100]}"
    found: dict[str, Any] = {k: min(row[k] for row in rows) for k in rows[0]}
    if peer is not None:
        found |= {"peer_ok": not error, "peer_seconds": None if error else min(theirs), "peer_error": error}
    pipe.send(found)
    pipe.close()
    os._exit(0)


def measure(source: str, name: str, peer: Path | None) -> dict[str, Any] | None:
    """One model in a process of its own; where the peer does not come to an end, our first run counts."""
    receiver, sender = multiprocessing.get_context("fork").Pipe(duplex=False)
    process = multiprocessing.get_context("fork").Process(target=_child, args=(sender, source, name, peer))
    process.start()
    sender.close()
    first: dict[str, Any] | None = None
    why = f"no answer in {PEER_LIMIT} s"
    try:
        first = receiver.recv() if receiver.poll(300) else None
        if first is not None and receiver.poll(PEER_LIMIT):
            return receiver.recv()
    except EOFError:
        why = "the process died"
    finally:
        process.kill()
        process.join()
    return first and first | {"peer_ok": False, "peer_seconds": None, "peer_error": why}


def family(depth: int, width: int) -> nn.Module:
    """A plain residual network: `depth` blocks of two convolutions."""

    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
            self.norm, self.more = nn.BatchNorm2d(width), nn.BatchNorm2d(width)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.more(self.b(torch.relu(self.norm(self.a(x)))))

    return nn.Sequential(nn.Conv2d(3, width, 3), *[Block() for _ in range(depth)], nn.Conv2d(width, 3, 1)).eval()


def scaling() -> dict[str, list[tuple[int, float]]]:
    """Seconds to trace while the network grows deeper (operators), and wider (channels)."""
    x = torch.zeros(1, 3, 8, 8)

    def fastest(depth: int, width: int) -> float:
        model = family(depth, width)
        times = []
        for _ in range(5):
            start = time.perf_counter()
            podar.trace(model, x)
            times.append(time.perf_counter() - start)
        return min(times)

    fastest(2, 8)
    return {
        "operators": [(5 * d + 2, fastest(d, 16)) for d in (25, 50, 100, 200, 400)],
        "channels": [((2 * 8 + 1) * w + 3, fastest(8, w)) for w in (64, 128, 256, 512, 1024)],
    }


def render(data: dict[str, Any]) -> str:
    """The page: totals, growth, every model."""
    rows = data["models"]
    both = [r for r in rows if r.get("peer_ok")]
    ratios = [r["peer_seconds"] / r["prune"] for r in both]
    lines = [
        "# Time to prune the zoo",
        "",
        f"`{data['command']}` on {data['processor']}, one thread, torch {data['versions']['torch']}, "
        f"podar-native {data['versions']['podar-native']}; the fastest of "
        f"{REPEATS} runs; `channels=0.5`, scope local, verification included. "
        "Torch-Pruning, which does not verify, ran in turn with podar.",
        "",
        f"{len(rows)} of {data['asked']} models are pruned. "
        f"Seconds: median {statistics.median(r['prune'] for r in rows):.2f}, "
        f"worst {max(r['prune'] for r in rows):.2f} ({max(rows, key=lambda r: r['prune'])['name']}), "
        f"all together {sum(r['prune'] for r in rows):.0f}.",
    ]
    if ratios:
        slower = [r["name"] for r in both if r["prune"] > r["peer_seconds"]]
        lines += [
            f"Torch-Pruning 1.6 prunes {len(both)} of them; where both work podar is "
            f"{statistics.median(ratios):.1f} times faster in the median"
            + (f"; slower: {', '.join(slower)}." if slower else "; nowhere slower."),
        ]
    lines += ["", "Time to trace grows with the network (![plot](../benchmarks/zoo.svg)):", ""]
    for what, points in data["scaling"].items():
        lines.append(f"- {what}: " + ", ".join(f"{n}: {1000 * s:.0f} ms" for n, s in points))
    lines += [
        "",
        "| source | model | trace s | prune s | parameters kept | Torch-Pruning s |",
        "|---|---|--:|--:|--:|--:|",
    ]
    for r in rows:
        peer = "" if "peer_ok" not in r else f"{r['peer_seconds']:.2f}" if r["peer_ok"] else "fails"
        lines.append(
            f"| {r['source']} | {r['name']} | {r['trace']:.3f} | {r['prune']:.3f} | {r['kept']:.3f} | {peer} |"
        )
    return "\n".join(lines) + "\n"


def plot(data: dict[str, Any]) -> str:
    """Both families, each scaled to its largest point: a straight line through the origin is linear growth."""
    shapes = []
    for k, (what, points) in enumerate(data["scaling"].items()):
        left, (n, s) = 40 + 300 * k, points[-1]
        dots = [(left + 220 * a / n, 220 - 180 * b / s) for a, b in points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in dots)
        shapes.append(
            f'<line x1="{left}" y1="220" x2="{left + 220}" y2="40" stroke="#bbb" stroke-dasharray="4"/>'
            f'<polyline points="{path}" fill="none" stroke="#0b6"/>'
            + "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="#0b6"/>' for x, y in dots)
            + f'<line x1="{left}" y1="220" x2="{left + 230}" y2="220" stroke="#444"/>'
            f'<line x1="{left}" y1="220" x2="{left}" y2="30" stroke="#444"/>'
            f'<text x="{left}" y="240">{what}: up to {n:,}</text><text x="{left}" y="22">{1000 * s:.0f} ms</text>'
        )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="640" height="260" font-family="sans-serif" font-size="12">'
        '<rect width="640" height="260" fill="white"/>' + "".join(shapes) + "</svg>\n"
    )


def main() -> None:
    """Measure, or render again."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, help="the folder that holds Torch-Pruning")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.table:
        data = json.loads(RESULT.read_text(encoding="utf-8"))
    else:
        if options.peer:
            torch_pruning(options.peer)  # says at once where it is missing
        data = {
            "command": "python benchmarks/zoo.py" + (" --peer FOLDER" if options.peer else ""),
            "processor": str(processor()),
            "versions": {
                "torch": version("torch"),
                "python": platform.python_version(),
                "torch-pruning": "1.6.0",
                "podar-native": native_version(),
            },
            "asked": sum(len(names) for names in NAMES.values()),
            "scaling": scaling(),
            "models": [],
        }
        for source, names in NAMES.items():
            for name in names:
                found = measure(source, name, options.peer)
                print(source, name, found or "failed", file=sys.stderr, flush=True)
                if found is not None:
                    data["models"].append({"source": source, "name": name, **found})
        write_atomic(RESULT, json.dumps(data, indent=1))
    write_atomic(PLOT, plot(data))
    write_atomic(PAGE, render(data))


if __name__ == "__main__":
    main()
