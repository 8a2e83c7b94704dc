"""One model on every runtime at hand, in turn: the figures behind `podar bench`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, UsageError
from podar.measuring.measured import Measured
from podar.measuring.measurement import compare
from podar.runtimes.opening import RUNTIMES, open_in, readers

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class OnRuntime:
    """One line of the table: what was run, where, and what came out, or why nothing did.

    `reason` is None exactly where `measured` is not.
    """

    model: str
    runtime: str
    measured: Measured | None
    reason: str | None = None


def side_by_side(
    models: Sequence[str | Path | nn.Module],
    example_inputs: Any,
    *,
    runtimes: Sequence[str] | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    memory: bool = True,
) -> list[OnRuntime]:
    """Measure model files, and the torch model they came from, on every runtime that reads them, in turn.

    **Arguments:**

    - `models`: files and torch modules, e.g. `["m.onnx", model]`: ONNX Runtime and OpenVINO run the file, torch the
      module.
    - `runtimes`: only these (None: all of onnxruntime, openvino, torch).
    - the others as for `podar.measure`.

    **Returns:** a line for each model and runtime that reads it, in that order. A runtime that is not installed or
    cannot run the model has a line with the reason.

    **Raises:** `UsageError` for an unknown runtime or one that reads none of the models; `PodarError` where no
    runtime can run any of them (with the first reason), or a file is missing.
    """
    for name in runtimes or ():
        if name not in RUNTIMES:
            raise UsageError(f"unknown runtime {name!r}: there are {', '.join(RUNTIMES)}.")
    pairs = [(model, r.name) for model in models for r in readers(model) if not runtimes or r.name in runtimes]
    if not pairs:
        raise UsageError(f"none of {', '.join(runtimes or RUNTIMES)} runs what was given.")
    reasons: dict[int, str] = {}
    for index, (model, name) in enumerate(pairs):
        try:
            open_in(name, model, example_inputs, threads)
        except UsageError:
            raise
        except PodarError as error:
            reasons[index] = str(error)
    working = [index for index in range(len(pairs)) if index not in reasons]
    if not working:
        raise PodarError(next(iter(reasons.values())))
    measured = compare(
        {str(index): pairs[index][0] for index in working},
        example_inputs,
        runtime={str(index): pairs[index][1] for index in working},
        threads=threads,
        seconds=seconds,
        memory=memory,
    )
    return [
        OnRuntime(_name(model), runtime, measured.get(str(index)), reasons.get(index))
        for index, (model, runtime) in enumerate(pairs)
    ]


def _name(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else type(model).__name__
