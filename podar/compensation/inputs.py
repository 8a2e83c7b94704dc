"""The inputs from which compensation learns, and the mode in which models see them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from podar.errors import PodarError, first_line
from podar.model.batches import inputs_of, size
from podar.model.modes import modes_put_back
from podar.model.state import state_put_back
from podar.model.tensors import tensors_in

SAMPLES = 512
"""So many samples are read, since the activations of all of them are in memory at once."""

HELD = 10
"""One sample of this many is held back: nothing is solved from it, it judges what was solved."""

FURTHER_BYTES = 512 << 20
"""Bytes that inputs beyond the first samples may take."""


class Read(list[Any]):
    """Batches of inputs that were read already, and a way to read on."""

    def __init__(self, batches: Iterable[Any] = (), rest: Iterator[Any] | None = None) -> None:
        super().__init__(batches)
        self._rest, self._further = iter(()) if rest is None else rest, list[Any]()

    def further(self, samples: int) -> list[Any]:
        """Batches behind these that hold so many samples, or fewer where the data or memory end before."""
        count = sum(size(batch) for batch in self._further)
        held = sum(t.numel() * t.element_size() for batch in self._further for t in tensors_in(batch))
        while count < samples and held < FURTHER_BYTES and (batch := next(self._rest, None)) is not None:
            if own := size(batch):
                self._further.append(batch)
                count += own
                held += sum(t.numel() * t.element_size() for t in tensors_in(batch))
        return list(self._further)


def first_batches(inputs: Any, model: nn.Module) -> Read:
    """The first batches, up to `SAMPLES`: more change next to nothing where activations are in memory at once.

    **Raises:** `PodarError`: no inputs, or inputs that are not finite or do not fit.
    """
    if isinstance(inputs, Read):
        return inputs
    batches = inputs_of(inputs, model, "compensation")
    found: list[Any] = []
    while sum(size(batch) for batch in found) < SAMPLES and (batch := next(batches, None)) is not None:
        if size(batch):
            found.append(batch)
    if not found:
        raise PodarError("the data for compensation hold no sample: every batch is empty")
    return Read(found, batches)


def monotonous(batches: Read) -> str | None:
    """The reason why nothing can be learned from these inputs, if all are the same sample; None where they differ."""
    count = sum(size(batch) for batch in batches)
    first = [t[:1] for t in tensors_in(batches[0]) if t.dim()]
    every = [[t for t in tensors_in(batch) if t.dim()] for batch in batches]
    same = all(t.shape[1:] == f.shape[1:] and bool((t == f).all()) for own in every for t, f in zip(own, first))
    return f"the inputs are {count} times the same sample: give different ones" if count > 1 and same else None


@contextmanager
def running() -> Iterator[None]:
    """Turn an exception of a model that does not run on its inputs into a `PodarError` that says so."""
    try:
        yield
    except PodarError:
        raise
    except Exception as error:
        raise PodarError(
            f"the model does not run on the inputs ({type(error).__name__}: {first_line(error)}); check shapes and "
            "types by calling it on one batch."
        ) from error


@contextmanager
def ready(model: nn.Module) -> Iterator[set[int]]:
    """Put every module into eval mode, and draw random numbers from a copy of the generator.

    Afterwards each module is in its former mode, and its buffers hold what they held before. Yields the ids of buffers
    whose new values stay.
    """
    with torch.random.fork_rng(devices=[]), modes_put_back(model), state_put_back(model) as meant:
        for module in model.modules():
            module.training = False
        yield meant
