"""Global magnitude at 90 % beside torch.nn.utils.prune, and accuracy against sparsity for every criterion.

    python benchmarks/sparsify.py speed      seconds and peak memory on ResNet-50 and ViT-B, the tools in turn
    python benchmarks/sparsify.py accuracy   the demo network on Fashion-MNIST; goes on where an earlier call stopped

Both write sparsify.json, the second after every finished cell. Times are the least of several runs, one thread; each
run is a process of its own, so that peak memory (over what the loaded model takes) is that run's alone.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import torch
from torch import nn
from torch.nn.utils import prune

import podar
from podar.criteria import CRITERIA
from podar.data import load
from podar.demo import load_trained
from podar.files import write_atomic
from podar.measuring import processor
from podar.recover import accuracy, finetune, recalibrate
from podar.sources.opening import open_source
from podar.sparse.layers import weights_of

RESULT = Path(__file__).with_suffix(".json")
MODELS = ("torchvision:resnet50", "timm:vit_base_patch16_224")
AMOUNT, RUNS = 0.9, 2
LEVELS, SEEDS = (0.9, 0.95, 0.8, 0.5), (0, 1, 2)
LEFT_OUT = {"magnitude-l1", "bn-scale"}  # the first ranks weights as magnitude does, the second scores none
SAME_EACH_TIME = {"magnitude", "lamp", "synflow"}  # without fine-tuning there is nothing that a seed would change
TESTS, TRAINED = 1_000, 3_000  # pictures


def with_podar(model: nn.Module) -> None:
    podar.sparsify(model, AMOUNT)


def with_torch(model: nn.Module) -> None:
    parameters = [place for weight in weights_of(model) for place in weight.places]
    prune.global_unstructured(parameters, prune.L1Unstructured, amount=AMOUNT)


TOOLS: dict[str, Callable[[nn.Module], None]] = {"podar": with_podar, "torch": with_torch}


class Peak:
    """The most resident memory of this process while the block runs, above what it had at the start."""

    def __enter__(self) -> Peak:
        self._process, self._over = psutil.Process(), False
        self._start = self.bytes = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over:
            self.bytes = max(self.bytes, self._process.memory_info().rss)
            time.sleep(0.0005)

    def __exit__(self, *_: Any) -> None:
        self._over = True
        self._thread.join()
        self.bytes -= self._start


def one(tool: str, name: str) -> None:
    """A run in this process; prints its figures."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = open_source(name).build()
    TOOLS[tool](nn.Linear(64, 64))  # what is loaded when first used is loaded now
    with Peak() as peak:
        start = time.process_time()
        TOOLS[tool](model)
        seconds = time.process_time() - start
    zeros = podar.sparsity(model)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak.bytes, "zeros": zeros.zeros, "weights": zeros.weights}))


def speed() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in MODELS:
        runs: dict[str, list[dict[str, Any]]] = {tool: [] for tool in TOOLS}
        for _ in range(RUNS):
            for tool in TOOLS:
                done = subprocess.run(
                    [sys.executable, __file__, "one", tool, name], capture_output=True, text=True, check=True
                )
                runs[tool].append(json.loads(done.stdout.splitlines()[-1]))
                print(name, tool, runs[tool][-1], flush=True)
        best = {
            tool: {
                "seconds": min(r["seconds"] for r in each),
                "all_seconds": [round(r["seconds"], 4) for r in each],
                "peak_bytes": int(statistics.median(r["peak_bytes"] for r in each)),
                "zeros": each[0]["zeros"],
                "weights": each[0]["weights"],
            }
            for tool, each in runs.items()
        }
        assert best["podar"]["zeros"] == best["torch"]["zeros"], "the tools removed different numbers of weights"
        found[name] = {
            **best,
            "times_faster": best["torch"]["seconds"] / best["podar"]["seconds"],
            "peak_ratio": best["podar"]["peak_bytes"] / best["torch"]["peak_bytes"],
        }
    return found


def accuracies(cells: dict[str, float], write: Callable[[], None]) -> None:
    """Fill in the cells "criterion amount tuned|alone seed" that are missing."""
    data = load("fashion-mnist-demo")

    def batches(seed: int) -> list[Any]:
        order = torch.randperm(len(data.train), generator=torch.Generator().manual_seed(seed))[:512]
        return [data.train.batch(places) for places in order.split(64)]

    test, train = data.test.subset(torch.arange(TESTS)), data.train.subset(torch.arange(TRAINED))
    cells.setdefault("dense", accuracy(load_trained(), test))
    names = [name for name in CRITERIA if name not in LEFT_OUT]
    for seed in SEEDS:
        for tuned, level in itertools.product((False, True), LEVELS):
            for name in names:
                key = f"{name} {level:g} {'tuned' if tuned else 'alone'} {seed}"
                if key in cells or (seed and not tuned and name in SAME_EACH_TIME):
                    continue
                torch.manual_seed(seed)
                model = load_trained()
                podar.sparsify(model, level, importance=name, data=batches(seed))
                podar.bake(model)
                recalibrate(model, train)
                if tuned:
                    keeper = podar.sparse.keep(model)
                    finetune(
                        model, train, epochs=1, lr=0.02, batch_size=64, label_smoothing=0.0, seed=seed,
                        precision="fp32", keeper=keeper,
                    )  # fmt: skip
                cells[key] = accuracy(model, test)
                write()
                print(key, cells[key], flush=True)


def table(cells: dict[str, float]) -> list[dict[str, Any]]:
    """Mean, and deviation over seeds, of each criterion and amount."""
    groups: dict[tuple[str, str, str], list[float]] = {}
    for key, value in cells.items():
        if key != "dense":
            name, level, kind, _ = key.split()
            groups.setdefault((name, level, kind), []).append(value)
    return [
        {
            "importance": name,
            "amount": float(level),
            "fine_tuned": kind == "tuned",
            "accuracy": statistics.fmean(values),
            "deviation": statistics.stdev(values) if len(values) > 1 else 0.0,
            "seeds": len(values),
        }
        for (name, level, kind), values in sorted(groups.items())
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "accuracy", "one"))
    parser.add_argument("rest", nargs="*")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    if options.what == "one":
        one(*options.rest)
        return
    torch.set_num_threads(1)
    found: dict[str, Any] = json.loads(RESULT.read_text(encoding="utf-8")) if RESULT.is_file() else {}
    versions = {"podar": podar.__version__, "torch": str(torch.__version__), "python": platform.python_version()}
    head = {
        "command": shlex.join(["python", "benchmarks/sparsify.py", options.what]),
        "versions": versions,
        "processor": str(processor()),
        "threads": 1,
    }

    def write() -> None:
        write_atomic(RESULT, json.dumps(found, indent=1) + "\n")

    if options.what == "speed":
        found["speed"] = {**head, "amount": AMOUNT, "models": speed()}
    else:
        kept = found.get("accuracy", {}).get("cells", {})
        found["accuracy"] = {
            **head,
            "network": "demo (ResNet-20 on Fashion-MNIST), batch norms recalibrated after the cut",
            "data": f"fashion-mnist-demo: {TRAINED} training pictures (512 for criteria), {TESTS} test pictures",
            "fine_tuning": "one epoch, no teacher",
            "cells": kept,
        }

        def note() -> None:
            found["accuracy"]["table"] = table(kept)
            write()

        accuracies(kept, note)
    write()


if __name__ == "__main__":
    main()
