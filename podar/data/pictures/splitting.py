"""Seeded stratified splits: every class keeps its share."""

from __future__ import annotations

import torch
from torch import Tensor

from podar.data.pictures.dataset import Split
from podar.errors import UsageError


def stratified(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Choose `count` pictures so that every class keeps its share, and at least one picture where `count` allows.

    **Arguments:** `labels`: int64 [N]; `count`: between 0 and N; `seed`: the same choice for the same seed.

    **Returns:** int64 indices of those chosen and of the rest, both ascending: together every index, once.

    ```python
    >>> chosen, rest = stratified(torch.tensor([0, 0, 0, 1, 1, 1]), 2, seed=0)
    >>> len(chosen), len(rest)
    (2, 4)

    ```
    """
    generator = torch.Generator().manual_seed(seed)
    shuffled = torch.randperm(len(labels), generator=generator)
    order = shuffled[labels[shuffled].argsort(stable=True)]  # by class, each in random order
    sizes = torch.bincount(labels)
    place = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes)[labels[order]]
    # The k-th of n pictures of a class comes at (k + 1/2) / n: taking in this order keeps every class's share. The
    # first of each class comes before all others.
    turn = torch.where(place == 0, place - 1.0, (place + 0.5) / sizes[labels[order]])
    order = order[turn.argsort(stable=True)]
    return order[:count].sort().values, order[count:].sort().values


def carve(split: Split, fraction: float = 0.1, seed: int = 0) -> tuple[Split, Split]:
    """Take a validation split out of a training split: disjoint, stratified by class, the same for the same seed.

    **Returns:** The rest, and the part that was carved out: `fraction` of the pictures.

    **Raises:** `UsageError` for a fraction that is not between 0 and 1.
    """
    if not 0 < fraction < 1:
        raise UsageError(f"a validation fraction of {fraction} makes no sense: give one between 0 and 1.")
    taken, rest = stratified(split.labels, max(1, round(fraction * len(split))), seed)
    return split.subset(rest), split.subset(taken)
