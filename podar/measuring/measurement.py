"""The verbs `measure` and `compare`: parameters, MACs, bytes, latency, peak memory and energy of models and files."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError
from podar.measuring.energy import open_meter
from podar.measuring.latency import time_in_turn
from podar.measuring.measured import Measured
from podar.measuring.memory import Memory, peak_memory
from podar.measuring.processors import processor
from podar.runtimes.opening import Opened, as_for_serving, file_bytes, open_in, readers
from podar.trust import programs

if TYPE_CHECKING:
    from torch import nn


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
) -> dict[str, Measured]:
    """Measure several models in turn (A, B, A, B …), so that a change in the machine's speed touches all alike.

    **Arguments:** as for `podar.measure`, with `models` a dict of name → model or file, and `runtime` one for all or a
    dict of name → runtime. `seconds` counts for each.

    **Returns:** a dict of the same names → `Measured`. `podar.measuring.latency_ratio` divides two of them.

    **Raises:** as `podar.measure`.

    ```python
    both = podar.measuring.compare({"before": "dense.onnx", "after": "pruned.onnx"}, images)
    print(podar.measuring.latency_ratio(both["before"], both["after"]))
    ```
    """
    names = {name: runtime.get(name) if isinstance(runtime, Mapping) else runtime for name in models}
    opened = {name: open_in(names[name], model, example_inputs, threads) for name, model in models.items()}
    meter = open_meter()
    with contextlib.ExitStack() as stack:
        for model in models.values():
            stack.enter_context(as_for_serving(model, threads))
        session = time_in_turn({name: o.run for name, o in opened.items()}, seconds=seconds, read_joules=meter.read)

    found: dict[str, Measured] = {}
    for name, model in models.items():
        missing: dict[str, str] = {}
        timed = session.timed[name]
        if timed.joules is None and meter.reason:
            missing["energy_joules"] = meter.reason
        params, macs = _params_and_macs(model, opened[name], example_inputs, missing)
        peak = _memory(names[name], model, example_inputs, threads, missing) if memory else None
        found[name] = Measured(
            params=params,
            macs=macs,
            bytes=_bytes(model),
            latency_ms={"p50": timed.p50, "p95": timed.p95, "runtime": opened[name].runtime, "threads": threads},
            memory_bytes=peak.peak if peak else None,
            memory_baseline_bytes=peak.baseline if peak else None,
            energy_joules=timed.joules,
            processor=processor(),
            missing=missing,
            turns_ms=timed.turns_ms,
            interrupted=timed.interrupted,
        )
    return found


def _params_and_macs(
    model: Any, opened: Opened, example_inputs: Any, missing: dict[str, str]
) -> tuple[int | None, int | None]:
    if isinstance(model, (str, Path)):
        missing["macs"] = "a model file does not tell its MACs: measure the torch model."
        params = opened.params()
        if params is None:
            missing["params"] = 'counting a file\'s weights needs the package onnx: pip install "podar[onnx]".'
        return params, None
    from podar.graph import trace

    try:
        cost = trace(model, example_inputs).cost()
    except PodarError as error:
        missing["macs"] = str(error)
        return opened.params(), None
    return cost.params, cost.macs


def _memory(
    runtime: str | None, model: Any, example_inputs: Any, threads: int, missing: dict[str, str]
) -> Memory | None:
    try:
        return peak_memory(runtime or readers(model)[0].name, model, example_inputs, threads)
    except PodarError as error:
        missing["memory_bytes"] = str(error)
        return None


def _bytes(model: Any) -> int:
    if isinstance(model, (str, Path)):
        return file_bytes(Path(model))
    stored = {t.untyped_storage().data_ptr(): t for t in (*model.parameters(), *model.buffers())}
    return sum(t.numel() * t.element_size() for t in stored.values())
