"""The inputs from which compensation learns, and the mode in which models see them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from podar.errors import PodarError, first_line
from podar.model.batches import inputs_of, size
from podar.model.modes import modes_put_back

SAMPLES = 512
"""So many samples are read: what their layers hold is in memory at once."""


class Read(list[Any]):
    """Batches of inputs that were read already."""


def first_batches(inputs: Any, model: nn.Module) -> Read:
    """The first batches, up to `SAMPLES`: more change next to nothing, and all of them are in memory at once.

    **Raises:** `PodarError`: no inputs, or inputs that are not finite or do not fit.
    """
    if isinstance(inputs, Read):
        return inputs
    found, count = Read(), 0
    for batch in inputs_of(inputs, model, "compensation"):
        found.append(batch)
        count += size(batch)
        if count >= SAMPLES:
            break
    return found


@contextmanager
def running() -> Iterator[None]:
    """Errors of a model that does not run on its inputs become one that says so."""
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
def ready(model: nn.Module) -> Iterator[None]:
    """Every module evaluates; afterwards each is in the mode in which it was."""
    with modes_put_back(model):
        for module in model.modules():
            module.training = False
        yield
