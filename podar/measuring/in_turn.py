"""Models and files measured in turn: parameters, MACs, bytes, latency, peak memory and energy of each."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError
from podar.measuring.energy import open_meter
from podar.measuring.figures import Measured
from podar.measuring.latency import Timed, time_in_turn
from podar.measuring.memory import Memory, peak_memory
from podar.measuring.processors import processor
from podar.runtimes import RUNTIMES, Ready, open_in, readers
from podar.runtimes.opening import file_bytes
from podar.runtimes.torch import as_for_serving
from podar.trust import programs

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Candidate:
    """A model file or torch module, the inputs that it is measured on, and the runtime that runs it."""

    model: str | Path | nn.Module
    inputs: Any
    runtime: str


def measure(
    model_or_file: str | Path | nn.Module,
    example_inputs: Any,
    *,
    runtime: str | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    memory: bool = True,
    trust: bool = False,
) -> Measured:
    """Measure a model where it runs.

    **Arguments:**

    - `model_or_file`: an `.onnx` file (run by ONNX Runtime), an OpenVINO `.xml`, an exported program `.pt2`, or a torch
      module (run as it is, in eval mode; its modes are put back).
    - `example_inputs`: a tensor, a tuple, a dict of keyword arguments (numpy arrays will do for files); for a module
      also a callable that runs it. Their batch size is the one measured.
    - `runtime`: `"onnxruntime"`, `"openvino"` or `"torch"`; None takes the first that reads the file.
    - `threads`: threads of the runtime.
    - `seconds`: time spent on timed runs, after the warm-up.
    - `trust`: read a `.pt2` that this process did not write: that can run any program.
    - `memory`: also start the child process that measures peak memory (about a second; three for torch).

    **Returns:** `Measured`. What cannot be had (energy without counters, the MACs of a file) is None, with the reason
    in `.missing`.

    **Raises:** `podar.errors.PodarError` for a missing file, a file that is no model, inputs of another shape or type
    than the file takes, a runtime that is not installed; `UsageError` for an unknown runtime or format, threads < 1,
    seconds ≤ 0.

    ```python
    figures = podar.measure("runs/x/model.onnx", torch.randn(1, 3, 32, 32))
    print(figures.latency_ms["p50"], figures.memory_bytes)
    ```
    """
    if trust and isinstance(model_or_file, (str, Path)) and Path(model_or_file).is_file():
        programs.remember(model_or_file)
    return compare(
        {"model": model_or_file}, example_inputs, runtime=runtime, threads=threads, seconds=seconds, memory=memory
    )["model"]


def compare(
    models: Mapping[str, str | Path | nn.Module],
    example_inputs: Any,
    *,
    runtime: str | Mapping[str, str] | None = None,
    threads: int = 1,
    seconds: float = 2.0,
    memory: bool = True,
    counts: bool = True,
) -> dict[str, Measured]:
    """Measure several models in turn (A, B, A, B …), so that a change in the machine's speed touches all alike.

    **Arguments:** as for `podar.measure`, and

    - `models`: a dict of name → model or file.
    - `runtime`: one for all, or a dict of name → runtime.
    - `seconds`: for each of the models.
    - `counts`: also count parameters and MACs, for which a torch module is traced; False leaves both None.

    **Returns:** A dict of the same names → `Measured`. `podar.measuring.latency_ratio` divides two of them.

    **Raises:** As `podar.measure`.

    ```python
    both = podar.measuring.compare({"before": "dense.onnx", "after": "pruned.onnx"}, images)
    print(podar.measuring.latency_ratio(both["before"], both["after"]))
    ```
    """
    candidates: dict[str, Candidate] = {}
    for name, model in models.items():
        asked = runtime.get(name) if isinstance(runtime, Mapping) else runtime
        candidates[name] = Candidate(model, example_inputs, asked or readers(model)[0].name)
    ready = {name: open_in(one.runtime, one.model, one.inputs, threads) for name, one in candidates.items()}
    return measure_in_turn(candidates, ready, threads=threads, seconds=seconds, memory=memory, counts=counts)


def measure_in_turn(
    candidates: Mapping[str, Candidate],
    ready: Mapping[str, Ready],
    *,
    threads: int,
    seconds: float,
    memory: bool,
    counts: bool = True,
) -> dict[str, Measured]:
    """Measure candidates that were opened: `ready` has each under its name. The other arguments are `compare`'s."""
    meter = open_meter()
    with contextlib.ExitStack() as stack:
        for one in candidates.values():
            stack.enter_context(as_for_serving(one.model, threads))
        timings = time_in_turn({name: ready[name].run for name in candidates}, seconds=seconds, read_joules=meter.read)
    counted: dict[tuple[Any, ...], _Counts] = {}  # a module that several runtimes run is traced once
    found = {}
    for name, one in candidates.items():
        key = id(one.model), id(one.inputs), one.runtime if isinstance(one.model, (str, Path)) else ""
        if key not in counted:
            counted[key] = _counts(one) if counts else _Counts(None, None, {})
        found[name] = _measured(
            one, ready[name].version, timings.timed[name], counted[key], meter.reason, threads=threads, memory=memory
        )
    return found


@dataclass(frozen=True)
class _Counts:
    """Parameters and multiply-adds; None where they are not known, and `missing` says why."""

    params: int | None
    macs: int | None
    missing: dict[str, str]


def _measured(
    candidate: Candidate,
    version: str,
    timed: Timed,
    counts: _Counts,
    no_energy: str | None,
    *,
    threads: int,
    memory: bool,
) -> Measured:
    missing = dict(counts.missing)
    if timed.joules is None and no_energy:
        missing["energy_joules"] = no_energy
    peak = _memory(candidate, threads, missing) if memory else None
    return Measured(
        params=counts.params,
        macs=counts.macs,
        bytes=_bytes(candidate.model),
        latency_ms={"p50": timed.p50, "p95": timed.p95, "runtime": version, "threads": threads},
        memory_bytes=peak.peak if peak else None,
        memory_baseline_bytes=peak.baseline if peak else None,
        energy_joules=timed.joules,
        processor=processor(),
        missing=missing,
        turns_ms=timed.turns_ms,
        interrupted=timed.interrupted,
    )


def _counts(candidate: Candidate) -> _Counts:
    model = candidate.model
    if isinstance(model, (str, Path)):
        missing = {"macs": "a model file does not tell its MACs: measure the torch model."}
        params = RUNTIMES[candidate.runtime].weights(Path(model))
        if params is None:
            missing["params"] = "the weights that the file stores cannot be counted: measure the torch model."
        return _Counts(params, None, missing)
    from podar.graph import trace

    try:
        cost = trace(model, candidate.inputs).cost()
    except PodarError as error:
        return _Counts(sum(parameter.numel() for parameter in model.parameters()), None, {"macs": str(error)})
    return _Counts(cost.params, cost.macs, {})


def _memory(candidate: Candidate, threads: int, missing: dict[str, str]) -> Memory | None:
    try:
        return peak_memory(candidate.runtime, candidate.model, candidate.inputs, threads)
    except PodarError as error:
        missing["memory_bytes"] = str(error)
        return None


def _bytes(model: Any) -> int:
    if isinstance(model, (str, Path)):
        return file_bytes(Path(model))
    stored = {t.untyped_storage().data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in stored.values())
