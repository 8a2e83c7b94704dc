"""The batches that a training gets, in an order that depends on its seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from podar.data import Dataset, Split, carve
from podar.errors import PodarError, UsageError
from podar.model.batches import Batch, collated, labelled, read, samples_of, training_part
from podar.model.tensors import to_device
from podar.recover.losses import check_targets

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 2000
SMALLEST_CARVED = 200  # pictures of training data below which none are carved out


@dataclass(frozen=True)
class Feed:
    """`epoch(n)` gives the batches of epoch n for this process, on its device; `steps` is how many there are.

    `highest`: the largest label, where it is known without reading everything.
    """

    steps: int
    epoch: Callable[[int], Iterator[Batch]]
    validation: Split | None
    highest: int | None = None


def feed(
    data: Any, model: nn.Module, batch_size: int, seed: int, device: torch.device, rank: int = 0, ranks: int = 1,
    taught: bool = False,
) -> Feed:  # fmt: skip
    """A feed of a data set, of a training split, of samples, or of batches that can be read again and again.

    Several processes share every batch: each takes `batch_size / ranks` of its pictures. `taught`: a teacher answers,
    so batches need no labels.

    **Raises:** `PodarError` where `data` is empty or its targets are no classes; `UsageError` where it is used up after
    one epoch or has no length.
    """
    if isinstance(data, (Dataset, Split)):
        return _pictures(data, batch_size, seed, device, rank, ranks)
    data = training_part(data)
    if isinstance(data, Split):
        return _pictures(data, batch_size, seed, device, rank, ranks)
    what = "distillation" if taught else "training"
    samples = samples_of(data)
    if samples is not None:
        given = _Shuffled(samples, batch_size, seed)
    elif isinstance(data, Mapping):
        given = [data]
    else:
        if not hasattr(data, "__len__") or isinstance(data, (str, bytes)) or iter(data) is data:
            raise UsageError("training needs a data set, or batches that can be read again: a DataLoader, a list.")
        given = data
    if not len(given):
        raise PodarError("the training data are empty.")

    def epoch(number: int) -> Iterator[Batch]:
        if isinstance(given, _Shuffled):
            given.number = number
        found = read(given, model, what) if taught else labelled(given, what)
        for k, batch in enumerate(found):
            if k % ranks == rank and k < max(1, len(given) // ranks) * ranks:
                yield _fit(batch, what, device)

    return Feed(max(1, len(given) // ranks), epoch, None)


class _Shuffled:
    """Batches of single samples, in an order of each epoch's own; a last, smaller batch is left out."""

    def __init__(self, samples: Any, batch_size: int, seed: int) -> None:
        self.samples, self.batch_size, self.seed, self.number = samples, batch_size, seed, 0

    def __len__(self) -> int:
        return max(1, len(self.samples) // self.batch_size) if len(self.samples) else 0

    def __iter__(self) -> Iterator[Any]:
        order = torch.randperm(len(self.samples), generator=_order(self.seed, self.number))
        for step in range(len(self)):
            yield collated(self.samples, order[step * self.batch_size : (step + 1) * self.batch_size].tolist())


def _fit(batch: Batch, what: str, device: torch.device) -> Batch:
    """The batch on the device, with targets that a cross entropy takes."""
    inputs = to_device(batch.inputs, device)
    if batch.targets is None:
        return Batch(inputs)
    check_targets(batch.targets, what)
    targets = batch.targets if batch.targets.is_floating_point() else batch.targets.long()
    return Batch(inputs, targets.to(device))


def _order(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + 7919 * number)


def _pictures(data: Dataset | Split, batch_size: int, seed: int, device: torch.device, rank: int, ranks: int) -> Feed:
    train, validation = (data, None) if isinstance(data, Split) else (data.train, data.validation)
    if not len(train):
        raise PodarError("the training data hold no pictures.")
    if not train.labelled:
        validation = None
    elif validation is None and len(train) >= SMALLEST_CARVED:
        share = min(VALIDATION_SHARE, VALIDATION_MOST / len(train))
        train, validation = carve(train, share, seed)
    own = max(1, batch_size // ranks)
    whole = own * ranks
    steps = max(1, len(train) // whole)  # a last, smaller batch is left out: its statistics are noise

    def epoch(number: int) -> Iterator[Batch]:
        order = torch.randperm(len(train), generator=_order(seed, number))
        drawn = torch.Generator().manual_seed(seed + 7919 * number + 104729 * (rank + 1))
        for step in range(steps):
            places = order[step * whole : (step + 1) * whole][rank * own : (rank + 1) * own]
            images, labels = train.batch(places, generator=drawn, device=device)
            yield Batch(images, labels if train.labelled else None)

    return Feed(steps, epoch, validation, int(train.labels.max()) if train.labelled else None)
