"""One model on every runtime at hand, in turn: the figures behind `podar bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, UsageError
from podar.measuring.figures import Measured
from podar.measuring.in_turn import Candidate, measure_in_turn
from podar.runtimes import RUNTIMES, Ready, open_in, readers
from podar.runtimes.register import runtime_named

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class OnRuntime:
    """One line of the table: what was run, where, and what came out, or why nothing did.

    `reason` is None exactly where `measured` is not; `place`: the model's place among those that were given.
    """

    model: str
    runtime: str
    measured: Measured | None
    reason: str | None = None
    place: int = 0


def side_by_side(
    models: Sequence[str | Path | nn.Module],
    example_inputs: Any = None,
    *,
    inputs: Sequence[Any] | None = None,
    runtimes: Sequence[str] | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    memory: bool = True,
) -> list[OnRuntime]:
    """Measure model files, and the torch model they came from, on every runtime that reads them, in turn.

    **Arguments:**

    - `models`: files and torch modules, e.g. `["m.onnx", model]`: ONNX Runtime and OpenVINO run the file, torch the
      module.
    - `inputs`: example inputs for each of the models, instead of one for all.
    - `runtimes`: only these (None: all).
    - the others as for `podar.measure`.

    **Returns:** A line for each model and runtime that reads it, in that order. A runtime that is not installed or
    cannot run the model has a line with the reason.

    **Raises:** `UsageError` for an unknown runtime or one that reads none of the models; `PodarError` where no
    runtime can run any of them (with the first reason), or a file is missing.
    """
    for name in runtimes or ():
        runtime_named(name)
    given = [example_inputs] * len(models) if inputs is None else inputs
    places = [
        (place, Candidate(model, given[place], reader.name))
        for place, model in enumerate(models)
        for reader in readers(model)
        if not runtimes or reader.name in runtimes
    ]
    if not places:
        raise UsageError(f"none of {', '.join(runtimes or RUNTIMES)} runs what was given.")
    ready: dict[str, Ready] = {}
    reasons: dict[str, str] = {}
    for key, (_, one) in enumerate(places):
        try:
            ready[str(key)] = open_in(one.runtime, one.model, one.inputs, threads)
        except UsageError:
            raise
        except PodarError as error:
            reasons[str(key)] = str(error)
    if not ready:
        raise PodarError(next(iter(reasons.values())))
    working = {key: places[int(key)][1] for key in ready}
    measured = measure_in_turn(working, ready, threads=threads, seconds=seconds, memory=memory)
    return [
        OnRuntime(_name(one.model), one.runtime, measured.get(str(key)), reasons.get(str(key)), place)
        for key, (place, one) in enumerate(places)
    ]


def _name(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
