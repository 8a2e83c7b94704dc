"""`podar.accelerate` for ONNX files: sparse pieces run in the engine, the others in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.engine import onnx_operators as onnx_operators  # their rules register themselves
from podar.engine.choosing import LayerSpeed, choose
from podar.engine.host import by_kind, fastest_times
from podar.engine.lowering import Unsupported
from podar.engine.native import check_native
from podar.engine.onnx_graph import OnnxGraph, Piece, as_model, cut, simplified_graph, with_inputs
from podar.engine.onnx_lowering import OnnxLowering, has_weight, reason_against
from podar.errors import PodarError, UsageError, first_line
from podar.files import write_atomic
from podar.runtimes.file_inputs import matched
from podar.runtimes.onnxruntime import OnnxSession, serving, session
from podar.runtimes.session import Port

_TIMES = 9  # runs of each side, in turn
_ADVICE = "; accelerate the file again for another shape, or convert the input"


@dataclass(frozen=True)
class TimedPiece:
    """One piece of the plan.

    - `operators`: how many; `layers`: what was decided for each of its layers, where the engine could run it.
    - `engine_ms`, `onnxruntime_ms`: a run of the piece in each; NaN where it was not measured.
    """

    operators: int
    in_engine: bool
    layers: tuple[LayerSpeed, ...]
    engine_ms: float
    onnxruntime_ms: float


@dataclass(frozen=True)
class FilePlan:
    """Where each piece of a file runs, and why. `host`: operators that the engine does not know, with the reason.

    - `mixed_ms`, `onnxruntime_ms`: a run of the pieces, and of the whole file in ONNX Runtime.
    - `whole_in_onnxruntime`: nothing is gained by the engine, so the file runs as it is.
    - `left_whole`: why the file could not be taken apart; "" where it was.
    """

    steps: tuple[TimedPiece, ...]
    host: Mapping[str, tuple[int, str]]
    level: str
    mixed_ms: float
    onnxruntime_ms: float
    whole_in_onnxruntime: bool
    left_whole: str = ""

    def __str__(self) -> str:
        if self.left_whole:
            return f"ONNX Runtime alone: the sparse engine cannot take the file apart ({self.left_whole})"
        why = "the engine would be slower" if any(step.layers for step in self.steps) else "nothing for the engine"
        where = f"ONNX Runtime alone ({why})" if self.whole_in_onnxruntime else "the plan below"
        lines = [
            f"sparse engine ({self.level}) and ONNX Runtime: {self.mixed_ms:.2f} ms, ONNX Runtime alone "
            f"{self.onnxruntime_ms:.2f} ms → {where}"
        ]
        for number, step in enumerate(self.steps):
            sparse = sum(layer.sparse for layer in step.layers)
            times = "" if np.isnan(step.engine_ms) else (
                f", {sparse} sparse and {len(step.layers) - sparse} dense layers, engine {step.engine_ms:.2f} ms, "
                f"ONNX Runtime {step.onnxruntime_ms:.2f} ms"
            )  # fmt: skip
            runs = "engine" if step.in_engine else "ONNX Runtime"
            lines.append(f"  {number}: {step.operators} operators{times} → {runs}")
            lines += [f"    {layer}" for layer in step.layers if step.in_engine]
        lines += [f"  in ONNX Runtime: {count} × {name}: {why}" for name, (count, why) in self.host.items()]
        return "\n".join(lines)


class AcceleratedFile(nn.Module):
    """An ONNX file whose sparse pieces run in the engine.

    It takes tensors or arrays, in order or by the names of the file's inputs, of the example's shapes and types, and
    returns what the file gives: one tensor, or a tuple of them; arrays where arrays were given. The batch may differ
    where one program is the whole file. `report` is the plan, printable.
    """

    def __init__(
        self, path: Path, report: FilePlan, feed: Mapping[str, np.ndarray], outputs: list[str], steps: list[Any]
    ):
        super().__init__()
        super().train(False)
        self.report = report
        self._path, self._outputs, self._steps = path, outputs, steps
        self._whole = len(steps) == 1 and isinstance(steps[0], _InEngine)
        self._wanted = [
            Port(name, (None, *v.shape[1:]) if self._whole else v.shape, v.dtype.name) for name, v in feed.items()
        ]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the file on inputs of the example's shapes."""
        given = kwargs if kwargs else args[0] if len(args) == 1 else args
        listed = (
            given.values() if isinstance(given, Mapping) else given if isinstance(given, (tuple, list)) else [given]
        )
        tensors = any(isinstance(value, Tensor) for value in listed)
        outputs = self.run(given)
        found = [torch.from_numpy(np.ascontiguousarray(v)) if tensors else v for v in outputs.values()]
        return found[0] if len(found) == 1 else tuple(found)

    def run(self, inputs: Any) -> dict[str, np.ndarray]:
        """Run on arrays; the outputs by name.

        **Raises:** `PodarError` for other inputs, shapes or types than the example's.
        """
        values = matched(self._path, self._wanted, inputs, advice=_ADVICE)
        for step in self._steps:
            step(values)
        return {name: values[name] for name in self._outputs}

    def train(self, mode: bool = True) -> AcceleratedFile:
        """A file only infers.

        **Raises:** `UsageError` for `mode=True`.
        """
        if mode:
            raise UsageError("an accelerated file cannot be trained: train the model that it was exported from.")
        return self

    def save(self, path: str | Path) -> None:
        """Write the program file that `podar_native.Runner` runs without torch and ONNX Runtime.

        **Raises:** `PodarError` where some operators stay in ONNX Runtime, so that no one program is the model.
        """
        if not self._whole:
            left = ", ".join(self.report.host) or "pieces that are faster there"
            raise PodarError(
                f"{self._path} is no single program: {left} run in ONNX Runtime; there is no file to write."
            )
        write_atomic(path, self._steps[0].program)


class _InEngine:
    """Runs one program: reads and writes tensors by name."""

    def __init__(self, program: bytes, reads: list[str], gives: tuple[str, ...], threads: int) -> None:
        self.program, self.reads, self.gives = program, reads, gives
        self.runner = check_native().Runner(program, threads=threads)

    def __call__(self, values: dict[str, np.ndarray]) -> None:
        values.update(zip(self.gives, self.runner.run([values[n] for n in self.reads])))


class _InHost:
    """Runs a model of ONNX Runtime, whole or a piece: reads and writes tensors by name."""

    def __init__(self, session: OnnxSession) -> None:
        self.session = session

    def __call__(self, values: dict[str, np.ndarray]) -> None:
        outputs = self.session.run([values[port.name] for port in self.session.inputs])
        values.update(zip((port.name for port in self.session.outputs), outputs))


def accelerate_file(
    path: Path, example_inputs: Any = None, *, measure: bool = True, tune: bool = True, threads: int | None = None
) -> AcceleratedFile:
    """See `podar.accelerate`. `threads`: None for as many as torch uses now."""
    check_native()
    threads = threads or torch.get_num_threads()
    alone, feed = with_inputs(path, example_inputs, threads)
    outputs = [port.name for port in alone.outputs]
    host = _InHost(alone)
    try:
        host(dict(feed))
    except Exception as error:  # its exceptions share no base class
        raise PodarError(f"{path} does not run on the example inputs: {first_line(error)}.") from error
    try:
        plan, steps = _planned(path, feed, host, measure=measure, tune=tune, threads=threads)
    except Exception as error:  # onnx and ONNX Runtime raise dozens of kinds; the file runs, so it stays whole
        nan, steps = float("nan"), []
        plan = FilePlan((), {}, check_native().levels()[0], nan, nan, True, first_line(error))
    return AcceleratedFile(path, plan, feed, outputs, [host] if plan.whole_in_onnxruntime else steps)


def _planned(
    path: Path, feed: Mapping[str, np.ndarray], alone: _InHost, *, measure: bool, tune: bool, threads: int
) -> tuple[FilePlan, list[Any]]:
    """What runs where, and the steps that do it.

    **Raises:** `PodarError` where the file cannot be taken apart.
    """
    graph = simplified_graph(path, feed)
    nodes = list(graph.model.graph.node)
    batch = next((v.shape[0] for v in graph.feed.values() if v.ndim), 1)
    found = ((i, reason_against(node, graph, batch)) for i, node in enumerate(nodes))
    reasons = {i: why for i, why in found if why is not None}
    described, steps, tried = _pieces(graph, reasons, measure=measure, tune=tune, threads=threads)
    mixed_ms = alone_ms = float("nan")
    if measure:
        mixed_ms, alone_ms = fastest_times(lambda: _all(steps, graph), lambda: alone(dict(graph.feed)), times=_TIMES)
    as_it_is = not any(step.in_engine for step in described) or (measure and mixed_ms >= alone_ms)
    host = by_kind((nodes[i].op_type, why) for i, why in reasons.items())
    level = next((s.runner.level for s in steps if isinstance(s, _InEngine)), check_native().levels()[0])
    return FilePlan((*described, *(tried if as_it_is else ())), host, level, mixed_ms, alone_ms, as_it_is), steps


def _pieces(
    graph: OnnxGraph, reasons: dict[int, str], *, measure: bool, tune: bool, threads: int
) -> tuple[list[TimedPiece], list[Any], list[TimedPiece]]:
    """The pieces: what is said of them, what runs them, and what is said of those that were faster in ONNX Runtime.

    A piece that is slower in the engine joins its neighbours in ONNX Runtime, and all is cut again.
    """
    nodes = list(graph.model.graph.node)
    places = {id(node): i for i, node in enumerate(nodes)}
    engine = {i for i in range(len(nodes)) if i not in reasons}
    tried: list[TimedPiece] = []
    while True:
        lost: set[int] = set()
        steps: list[Any] = []
        described: list[TimedPiece] = []
        for piece in cut(graph, engine):
            if not piece.in_engine:
                steps.append(_InHost(_session(piece, graph, threads)))
                described.append(TimedPiece(len(piece.nodes), False, (), float("nan"), float("nan")))
                continue
            prepared, step = _prepared(piece, graph, places, reasons, measure=measure, tune=tune, threads=threads)
            if prepared is None:
                lost |= {places[id(node)] for node in piece.nodes}
                tried += [step] if step is not None else []
            else:
                assert step is not None
                steps.append(prepared)
                described.append(step)
        if not lost:
            return described, steps, tried
        engine -= lost


def _session(piece: Piece, graph: OnnxGraph, threads: int) -> OnnxSession:
    return serving(session(as_model(piece, graph), threads), "a piece of the file")


def _prepared(
    piece: Piece,
    graph: OnnxGraph,
    places: dict[int, int],
    reasons: dict[int, str],
    *,
    measure: bool,
    tune: bool,
    threads: int,
) -> tuple[_InEngine | None, TimedPiece | None]:
    """A piece as a program; None where the engine cannot run it after all, has nothing to gain, or is slower."""
    if not any(has_weight(node) for node in piece.nodes):
        return None, None
    inside = {name for node in piece.nodes for name in node.output if name}
    lowering = OnnxLowering(graph, inside)
    try:
        for name in piece.reads:
            lowering.value(name)
        for name in piece.gives:
            lowering.finish(name)
    except (Unsupported, ValueError) as error:
        reasons |= {places[id(node)]: str(error).rstrip(".") for node in piece.nodes if has_weight(node)}
        return None, None
    inputs = [np.ascontiguousarray(graph.samples[name]) for name in lowering.outside]
    program, decisions = choose(lowering.network, inputs, tune=tune)
    prepared = _InEngine(program, lowering.outside, piece.gives, threads)
    if not measure:
        return prepared, TimedPiece(len(piece.nodes), True, tuple(decisions), float("nan"), float("nan"))
    host = _InHost(_session(piece, graph, threads))
    engine_ms, host_ms = fastest_times(
        lambda: prepared(dict(graph.samples)), lambda: host(dict(graph.samples)), times=_TIMES
    )
    step = TimedPiece(len(piece.nodes), engine_ms < host_ms, tuple(decisions), engine_ms, host_ms)
    return (prepared if step.in_engine else None), step


def _all(steps: list[Any], graph: OnnxGraph) -> None:
    values = dict(graph.feed)
    for step in steps:
        step(values)
