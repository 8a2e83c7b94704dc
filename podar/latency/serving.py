"""The runtime and threads that are to serve a model: opens layers and whole models there, and times them in turn."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from podar.errors import PodarError, UsageError
from podar.formats import FORMATS
from podar.formats.flat import flatten
from podar.formats.registry import WritingOptions
from podar.latency.layers import Layer
from podar.latency.modules import LayerModule
from podar.latency.onnx_files import onnx_file
from podar.latency.timing import Lap, arrays, lap, portions, quick, rounds
from podar.measuring.processors import processor
from podar.model.inputs import ExampleInputs
from podar.runtimes import Runtime, Session, open_file, open_in
from podar.runtimes.file_inputs import matched
from podar.runtimes.register import runtime_named
from podar.runtimes.torch import as_for_serving

ONNX = ".onnx"

LAYER_SECONDS = 2.0
"""A portion of layers is timed for at least so long: small layers, which other programs disturb most, are run often."""

TINY = 1e-6
"""Milliseconds: no run takes less."""


@dataclass(frozen=True)
class Serving:
    """Where the model will run.

    **Attributes:** `runtime`, `threads`; `version`: the runtime's name and version; `processor`: its name.
    """

    runtime: Runtime
    threads: int
    version: str
    processor: str

    def time_layers(self, layers: Mapping[str, tuple[Layer, int]], beside: Lap, beside_ms: float) -> dict[str, float]:
        """Milliseconds of layers, timed in turn with a whole model, so that whatever slows the machine down slows both.

        **Arguments:**

        - `layers`: by name, the layer and how often it follows upon itself.
        - `beside`, `beside_ms`: the model, and what it takes.
        """
        found: dict[str, float] = {}
        sizes = {name: 8 * int(np.prod(layer.weight)) * times for name, (layer, times) in layers.items()}
        for part in portions(sizes):
            with tempfile.TemporaryDirectory(prefix="podar-latency-") as folder, as_for_serving(_NOTHING, self.threads):
                laps = {name: self._layer(*layers[name], Path(folder) / f"{k}{ONNX}") for k, name in enumerate(part)}
                times = rounds({"": beside, **laps}, self.threads, LAYER_SECONDS)
                speed = beside_ms / max(quick(times.pop("")), TINY)
                found |= {name: speed * quick(own) for name, own in times.items()}
        return found

    def _layer(self, layer: Layer, times: int, file: Path) -> Lap:
        """One layer, ready to be timed."""
        if ONNX in self.runtime.suffixes:
            file.write_bytes(onnx_file(layer, times))
            session = self.runtime.open(file, self.threads)
            return lap_of(session, arrays([[size or 1 for size in port.shape] for port in session.inputs]))
        assert self.runtime.module is not None
        inputs = [
            torch.from_numpy(a) for a in arrays([layer.input, *[layer.output] * (times * layer.tail.count("add"))])
        ]
        ready = self.runtime.module(LayerModule(layer, times).eval(), tuple(inputs), self.threads)
        return lambda: lap(ready.run)

    def opened(self, model: nn.Module, example_inputs: ExampleInputs) -> Lap:
        """A model, exported as it will be where the runtime reads files, ready to be timed."""
        if ONNX in self.runtime.suffixes:
            with tempfile.TemporaryDirectory(prefix="podar-latency-") as folder:
                file = Path(folder) / f"model{ONNX}"
                write_quickly(model, file, example_inputs)
                return self.opened_file(file, example_inputs)
        ready = open_in(self.runtime.name, model, example_inputs, self.threads)

        def run() -> tuple[float, float, bool]:
            with as_for_serving(model, self.threads):
                return lap(ready.run)

        return run

    def opened_file(self, file: Path, example_inputs: ExampleInputs) -> Lap:
        """A model file, ready to be timed."""
        session = open_file(file, self.threads, runtime=self.runtime.name)
        given = list(matched(file, session.inputs, example_inputs).values())
        session.run(given)  # one run while the file is there: some runtimes compile only then
        return lap_of(session, given)

    def in_turn(self, laps: Sequence[Lap], seconds: float = 0.0) -> list[float]:
        """Milliseconds of models that were timed one after the other, round by round.

        The time of the first is that of a quick run. The times of the others are in proportion to it: by the median of
        the ratios of neighbouring runs, which the drift of a shared machine does not touch.
        """
        found = rounds({str(k): own for k, own in enumerate(laps)}, self.threads, seconds)
        first = found["0"]
        ratios = [statistics.median(b / max(a, TINY) for a, b in zip(first, times)) for times in found.values()]
        return [quick(first) * ratio for ratio in ratios]


_NOTHING = nn.Module()


def lap_of(session: Session, given: Sequence[np.ndarray]) -> Lap:
    """A session, ready to be timed. A simulator reports itself what a run takes on its device, as `elapsed_ms`."""
    if not hasattr(session, "elapsed_ms"):
        return lambda: lap(lambda: session.run(given))

    def run() -> tuple[float, float, bool]:
        session.run(given)
        took = float(session.elapsed_ms)  # pyright: ignore[reportAttributeAccessIssue]
        return took, took, False

    return run


def serving(runtime: str, threads: int) -> Serving:
    """The runtime of that name on this machine.

    **Raises:** `UsageError`: no such runtime, one that reads no ONNX files and runs no modules, or threads below 1;
    `PodarError`: it is not installed.
    """
    chosen = checked_runtime(runtime)
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads is {threads!r}: give a whole number from 1 up.")
    package = chosen.imported()
    version = f"{chosen.name} {str(getattr(package, '__version__', '')).partition('-')[0]}".strip()
    return Serving(chosen, threads, version, processor().name)


def write_quickly(model: nn.Module, file: Path, example_inputs: ExampleInputs) -> None:
    """Write a model as an ONNX file that is only timed: in the quickest way, without comparing outputs.

    **Raises:** `PodarError`: it cannot be exported in any way.
    """
    flat = flatten(model, example_inputs)
    attempts = FORMATS["onnx"].attempts(flat, file, WritingOptions(dynamic_batch=False))
    for left, attempt in enumerate(reversed(attempts), 1 - len(attempts)):  # the quickest comes last
        try:
            attempt()
            return
        except PodarError:
            if not left:
                raise


def checked_runtime(name: str) -> Runtime:
    """The runtime of that name, if layers can be timed in it.

    **Raises:** `UsageError`: there is none, or they cannot.
    """
    chosen = runtime_named(name)
    if ONNX not in chosen.suffixes and chosen.module is None:
        raise UsageError(f"single layers cannot be timed in {name}: give runtime='onnxruntime', 'openvino' or 'torch'")
    return chosen
