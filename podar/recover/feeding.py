"""The batches that a training gets, in an order that depends on its seed and the epoch alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from podar.data import Dataset, Split, carve
from podar.errors import PodarError, UsageError
from podar.model.batches import Batch, collated, samples_of, training_part, validation_part
from podar.model.tensors import to_device

VALIDATION_SHARE, VALIDATION_MOST = 0.1, 2000
SMALLEST_CARVED = 200  # pictures of training data below which none are carved out


@dataclass(frozen=True)
class Feed:
    """`epoch(n)` gives the batches of epoch n for this process, on its device; `steps` is how many there are.

    `highest`: the largest label, where it is known without reading everything. `validation`: what metrics are measured
    on, in the form of the data; None where they hold nothing for that.
    """

    steps: int
    epoch: Callable[[int], Iterator[Batch]]
    validation: Any = None
    highest: int | None = None


@dataclass(frozen=True)
class Part:
    """Which part of every batch a process takes: `batch_size / ranks` of its samples. The order hangs on `seed`."""

    batch_size: int
    seed: int
    device: torch.device
    rank: int = 0
    ranks: int = 1


def feed(data: Any, read: Callable[[Any], Iterator[Batch]], part: Part, carved: bool = True) -> Feed:
    """A feed of a data set, of a training split, of samples, or of batches that can be read again and again.

    **Arguments:** `read`: reads what is no picture set of podar's own. `carved`: some labelled pictures are kept out of
    training, to validate.

    **Raises:** `PodarError` where `data` is empty or `read` refuses it; `UsageError` where it is used up after one
    epoch or has no length.
    """
    if isinstance(data, (Dataset, Split)):
        return _pictures(data, part, carved)
    validation, data = validation_part(data), training_part(data)
    if isinstance(data, Split):
        return _pictures(data, part, carved)
    samples = samples_of(data)
    if samples is not None:
        given = _Shuffled(samples, part.batch_size, part.seed)
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
        for k, batch in enumerate(read(given)):
            if k % part.ranks == part.rank and k < max(1, len(given) // part.ranks) * part.ranks:
                yield to_device(batch, part.device)

    return Feed(max(1, len(given) // part.ranks), epoch, validation)


def validation_batches(data: Any, read: Callable[[Any], Iterator[Batch]], part: Part) -> Iterator[Batch]:
    """All of what `Feed.validation` holds, in its order."""
    if isinstance(data, Split):
        for places in torch.arange(len(data)).split(part.batch_size):
            yield Batch(*data.batch(places, device=part.device))
        return
    for batch in read(data):
        yield to_device(batch, part.device)


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


def _order(seed: int, number: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed + 7919 * number)


def _pictures(data: Dataset | Split, part: Part, carved: bool) -> Feed:
    train, validation = (data, None) if isinstance(data, Split) else (data.train, data.validation)
    if not len(train):
        raise PodarError("the training data hold no pictures.")
    if not train.labelled:
        validation = None
    elif carved and validation is None and len(train) >= SMALLEST_CARVED:
        share = min(VALIDATION_SHARE, VALIDATION_MOST / len(train))
        train, validation = carve(train, share, part.seed)
    own = max(1, part.batch_size // part.ranks)
    whole = own * part.ranks
    steps = max(1, len(train) // whole)  # a last, smaller batch is left out: its statistics are noise

    def epoch(number: int) -> Iterator[Batch]:
        order = torch.randperm(len(train), generator=_order(part.seed, number))
        drawn = torch.Generator().manual_seed(part.seed + 7919 * number + 104729 * (part.rank + 1))
        for step in range(steps):
            places = order[step * whole : (step + 1) * whole][part.rank * own : (part.rank + 1) * own]
            images, labels = train.batch(places, generator=drawn, device=part.device)
            yield Batch(images, labels if train.labelled else None)

    return Feed(steps, epoch, validation, int(train.labels.max()) if train.labelled else None)
