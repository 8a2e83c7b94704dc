"""Feed: what a training eats, batch by batch, in an order that depends on seed and epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from podar.data import Dataset, Split, carve
from podar.errors import PodarError, UsageError

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 2000
SMALLEST_CARVED = 200  # pictures of training data below which none are carved out


@dataclass(frozen=True)
class Feed:
    """`epoch(n)` gives the batches (inputs, labels) of epoch n for this process; `steps` is how many there are.

    `highest`: the largest label, where it is known without reading everything.
    """

    steps: int
    epoch: Callable[[int], Iterator[tuple[Tensor, Tensor]]]
    validation: Split | None
    highest: int | None = None


def feed(data: Any, batch_size: int, seed: int, device: torch.device, rank: int = 0, ranks: int = 1) -> Feed:
    """A feed of a data set, of a training split, or of anything that yields (inputs, labels) again and again.

    Several processes share every batch: each takes `batch_size / ranks` of its pictures.

    **Raises:** `PodarError` where `data` is empty; `UsageError` where it is used up after one epoch or has no length.
    """
    if isinstance(data, (Dataset, Split)):
        return _pictures(data, batch_size, seed, device, rank, ranks)
    if not hasattr(data, "__len__") or iter(data) is data:
        raise UsageError("training needs a data set, or batches that can be read again: a DataLoader, a list.")
    if not len(data):
        raise PodarError("the training data are empty.")

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        for k, (inputs, labels) in enumerate(data):
            if k % ranks == rank and k < len(data) // ranks * ranks:
                yield inputs.to(device), labels.to(device)

    return Feed(max(1, len(data) // ranks), epoch, None)


def _pictures(data: Dataset | Split, batch_size: int, seed: int, device: torch.device, rank: int, ranks: int) -> Feed:
    train, validation = (data, None) if isinstance(data, Split) else (data.train, data.validation)
    if not len(train):
        raise PodarError("the training data hold no pictures.")
    if validation is None and len(train) >= SMALLEST_CARVED:
        share = min(VALIDATION_SHARE, VALIDATION_MOST / len(train))
        train, validation = carve(train, share, seed)
    own = max(1, batch_size // ranks)
    whole = own * ranks
    steps = max(1, len(train) // whole)  # a last, smaller batch is left out: its statistics are noise

    def epoch(number: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(train), generator=torch.Generator().manual_seed(seed + 7919 * number))
        drawn = torch.Generator().manual_seed(seed + 7919 * number + 104729 * (rank + 1))
        for step in range(steps):
            places = order[step * whole : (step + 1) * whole][rank * own : (rank + 1) * own]
            yield train.batch(places, generator=drawn, device=device)

    return Feed(steps, epoch, validation, int(train.labels.max()))
