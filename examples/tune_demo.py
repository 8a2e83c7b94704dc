"""Chooses how `podar demo` prunes and recovers: on validation pictures split from the training images that travel.

python examples/tune_demo.py                  every candidate below, 24,000 pictures seen by each
python examples/tune_demo.py --images 48000 --only "isomorphic" --seeds 2

The test pictures are never looked at. A training's worth is judged by the pictures that it may see, not by seconds, so
that a busy machine chooses what an idle one does. Beside the accuracy stands the cross entropy, which is less noisy.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, replace

import torch
import typer
from torch import nn
from torch.nn import functional

import podar
import podar.data
from podar.data import Split
from podar.data.pictures.splitting import stratified
from podar.demo import load_trained
from podar.recover import accuracy, recalibrate

VALIDATION = 3000  # of the 12,000 training pictures


@dataclass(frozen=True)
class Candidate:
    """One way to prune and recover; the defaults are the demo's."""

    scope: str = "global"
    importance: str = "magnitude"
    lr: float = 0.03
    batch_size: int = 64
    smoothing: float = 0.0
    distill: bool = True

    def __str__(self) -> str:
        taught = "distilled" if self.distill else "alone"
        steps = f"lr={self.lr:g} batch={self.batch_size} smoothing={self.smoothing:g}"
        return f"{self.scope} {self.importance} {steps} {taught}"


FIRST = Candidate()
CANDIDATES = (
    FIRST,
    replace(FIRST, lr=0.01),
    replace(FIRST, lr=0.06),
    replace(FIRST, batch_size=128, lr=0.06),
    replace(FIRST, batch_size=32, lr=0.02),
    replace(FIRST, smoothing=0.1),
    replace(FIRST, distill=False),
    replace(FIRST, scope="isomorphic"),
    replace(FIRST, scope="local"),
    replace(FIRST, importance="taylor"),
)


def main(images: int = 24_000, seeds: int = 1, only: str = "") -> None:
    """Train each candidate whose name holds `--only` for `--images` pictures, `--seeds` times, and print the table."""
    whole = podar.data.load("fashion-mnist-demo").train
    held, rest = stratified(whole.labels, VALIDATION, seed=1)
    train, validation = whole.subset(rest), whole.subset(held)
    reached, loss = judged(load_trained(), validation)
    print(f"{'dense':64} accuracy {reached:.4f}, cross entropy {loss:.4f}", flush=True)
    for candidate, seed in itertools.product(CANDIDATES, range(seeds)):
        if only not in str(candidate):
            continue
        began = time.perf_counter()
        model = tried(candidate, train, images, seed)
        reached, loss = judged(model, validation)
        took = time.perf_counter() - began
        print(f"{candidate!s:64} accuracy {reached:.4f}, cross entropy {loss:.4f}, {took:.0f} s", flush=True)


def tried(candidate: Candidate, train: Split, images: int, seed: int) -> nn.Module:
    """The demo's network, pruned and recovered on `train` as `candidate` says."""
    torch.manual_seed(seed)
    model, batches = load_trained(), [train.batch(places) for places in torch.arange(1024).split(128)]
    podar.prune(
        model,
        torch.zeros(1, *train.shape),
        "macs=0.5",
        importance=candidate.importance,
        scope=candidate.scope,
        data=batches,
        loss=functional.cross_entropy,
    )
    recalibrate(model, train)
    # One "epoch" of exactly as many pictures as may be seen, drawn over and over from the training split.
    drawn = torch.cat([torch.randperm(len(train)) for _ in range(images // len(train) + 1)])[:images]
    podar.finetune(
        model,
        [_Batch(train, places, seed) for places in drawn.split(candidate.batch_size)],
        epochs=1,
        lr=candidate.lr,
        label_smoothing=candidate.smoothing,
        teacher=load_trained() if candidate.distill else None,
        seed=seed,
    )
    return model


class _Batch:
    """Pictures that are augmented when they are asked for, unpacked as (inputs, labels)."""

    def __init__(self, split: Split, places: torch.Tensor, seed: int) -> None:
        self.split, self.places, self.seed = split, places, seed

    def __iter__(self):
        drawn = torch.Generator().manual_seed(self.seed + int(self.places[0]))
        return iter(self.split.batch(self.places, generator=drawn))


@torch.no_grad()
def judged(model: nn.Module, split: Split) -> tuple[float, float]:
    """Accuracy and mean cross entropy."""
    model.eval()
    total = sum(
        float(functional.cross_entropy(model(x), y, reduction="sum"))
        for x, y in (split.batch(places) for places in torch.arange(len(split)).split(250))
    )
    return accuracy(model, split), total / len(split)


if __name__ == "__main__":
    typer.run(main)
