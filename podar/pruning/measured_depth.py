"""Depth by measurement: which residual blocks a network misses least, and how many of them go in place of channels."""

from __future__ import annotations

import heapq
import math
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from podar.compensation.inputs import ready, running
from podar.errors import PodarError
from podar.graph.graph import Graph
from podar.graph.residual_blocks import ResidualBlock
from podar.model.batches import run, size
from podar.model.tensors import tensors_in
from podar.plans.skipped_blocks import Skipped, replace
from podar.pruning.depth import without
from podar.pruning.target import Target

SAMPLES = 64
"""So many inputs are enough to tell blocks apart."""

PARTS = 3
"""None of the blocks goes, or a third, or two thirds, or as many as the target allows: each is tried."""


class Answers:
    """What a model gives on some inputs, to measure others by."""

    def __init__(self, model: nn.Module, inputs: Sequence[Any]) -> None:
        self.inputs, count = list[Any](), 0
        for batch in inputs:
            self.inputs.append(batch)
            count += size(batch)
            if count >= SAMPLES:
                break
        self.wanted = self._given(model)
        self.spreads = [float((t - t.mean()).square().mean().clamp_min(1e-30)) for t in self.wanted]

    def error(self, model: nn.Module) -> float:
        """The mean over all outputs of squared error, as a share of their spread; infinite where a model breaks off."""
        try:
            given = self._given(model)
        except PodarError:
            return math.inf
        if [t.shape for t in given] != [t.shape for t in self.wanted]:
            return math.inf
        each = [float((a - b).square().mean()) / s for a, b, s in zip(given, self.wanted, self.spreads)]
        found = sum(each) / max(len(each), 1)
        return found if math.isfinite(found) else math.inf

    def _given(self, model: nn.Module) -> list[Tensor]:
        found = list[Tensor]()
        with ready(model), running(), torch.no_grad():
            for batch in self.inputs:
                outputs = tensors_in(run(model, batch))
                found += [t.float().cpu() for t in outputs if t.is_floating_point() and t.numel()]
        return found


def by_error(model: nn.Module, blocks: Sequence[ResidualBlock], answers: Answers) -> list[ResidualBlock]:
    """Blocks in the order in which they go. The next is the one without which the answers change least. One block of
    each structure stays, and a block that has no equal stays too.

    The error of a block rarely falls when others go, so only the block with the least known error is measured anew.
    """
    left = Counter(block.kind for block in blocks)

    def error(k: int) -> float:
        with _skipped(model, [*gone, blocks[k]]):
            return answers.error(model)

    gone: list[ResidualBlock] = []
    waiting = [(error(k), k, 0) for k in range(len(blocks)) if left[blocks[k].kind] > 1]
    heapq.heapify(waiting)
    while waiting:
        _, k, measured = heapq.heappop(waiting)
        if left[blocks[k].kind] < 2:
            continue
        if measured < len(gone):
            heapq.heappush(waiting, (error(k), k, len(gone)))
            continue
        gone.append(blocks[k])
        left[blocks[k].kind] -= 1
    return gone


def share_of(order: Sequence[ResidualBlock], blocks: Sequence[ResidualBlock], kept: float) -> list[ResidualBlock]:
    """The blocks of this order that go if every structure is to keep this share of its blocks."""
    kinds, gone = Counter(b.kind for b in blocks), Counter[Any]()
    found = []
    for block in order:
        gone[block.kind] += 1
        if gone[block.kind] <= (1 - kept) * kinds[block.kind] + 1e-9:
            found.append(block)
    return found


def fewest_missed(
    graph: Graph,
    targets: Sequence[Target],
    order: Sequence[ResidualBlock],
    attempt: Callable[[Sequence[ResidualBlock]], float],
) -> list[ResidualBlock]:
    """The first blocks of an order: some numbers of them are tried, and the one with the best answers is taken.

    **Arguments:**

    - `order`: the blocks in the order in which they go.
    - `attempt(blocks)`: how far off the answers are where these blocks go and channels do the rest.

    **Raises:** `PodarError`: no number meets the target.
    """
    cost = without(graph, targets)
    most = max(n for n in range(len(order) + 1) if n == 0 or cost(order[:n]))
    found: list[tuple[float, int]] = []
    refused: PodarError | None = None
    for n in sorted({round(most * part / PARTS) for part in range(PARTS + 1)}):
        try:
            found.append((attempt(order[:n]), n))
        except PodarError as error:
            refused = error
    if not found:
        assert refused is not None  # each number was tried
        raise refused
    return list(order[: min(found)[1]])


@contextmanager
def _skipped(model: nn.Module, blocks: Sequence[ResidualBlock]) -> Generator[None]:
    """Skip some blocks of the model while the context lasts."""
    forms = {name: form for block in blocks for name, form in block.skips.items()}
    old = {name: replace(model, name, Skipped(*form)) for name, form in forms.items()}
    try:
        yield
    finally:
        for name, module in reversed(old.items()):
            replace(model, name, module)
