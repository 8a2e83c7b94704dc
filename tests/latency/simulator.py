"""A runtime that tells itself what a run takes: a simulator of a processor with so many multiplications a second."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from podar.runtimes.onnxruntime import serving, session
from podar.runtimes.register import runtime, unregister

NAME = "simulator"
VERSION = "simulator 1.0"
BORDER = 1e-7
"""Milliseconds that each number takes that enters or leaves."""

FIXED = 0.002
"""Milliseconds of each run."""


@dataclass
class Simulated:
    """A file in ONNX Runtime, with a time of its own: whole eights of channels, and what enters and leaves."""

    opened: Any
    elapsed_ms: float
    factor: float = 1.0

    @property
    def inputs(self) -> Any:
        return self.opened.inputs

    @property
    def outputs(self) -> Any:
        return self.opened.outputs

    @property
    def version(self) -> str:
        return VERSION

    def run(self, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        return self.opened.run(arrays)


def milliseconds(file: Path) -> float:
    """What the layers of a file take: a millisecond for a hundred million multiplications, widths in whole eights."""
    import onnx
    from onnx import shape_inference

    model = shape_inference.infer_shapes(onnx.load(str(file)), data_prop=True)
    shapes = {v.name: _shape(v) for v in (*model.graph.value_info, *model.graph.input, *model.graph.output)}
    shapes |= {t.name: tuple(t.dims) for t in model.graph.initializer}
    numbers = 0.0
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            weight, out = shapes[node.input[1]], shapes[node.output[0]]
            inner = weight[0] if node.op_type == "MatMul" else math.prod(weight[1:])
            places = math.prod(out) // (out[-1] if node.op_type == "MatMul" else out[1])
            width = out[-1] if node.op_type == "MatMul" else out[1]
            numbers += -(-width // 8) * 8 * inner * places
    border = sum(math.prod(_shape(v)) for v in (*model.graph.input, *model.graph.output))
    return FIXED + BORDER * border + numbers * 1e-8


def _shape(value: Any) -> tuple[int, ...]:
    return tuple(d.dim_value or 1 for d in value.type.tensor_type.shape.dim)


@contextmanager
def simulator(slower: float = 1.0) -> Iterator[None]:
    """Within: the runtime is registered. `slower`: a factor on whole models, which a table cannot know."""

    @runtime(NAME, package="onnxruntime", extra="onnx", suffixes=(".onnx",), widths=8)
    def open_(file: Path, threads: int) -> Simulated:
        took = milliseconds(file)
        whole = "layer" not in _graph_name(file)
        return Simulated(serving(session(file, threads), str(file)), took * (slower if whole else 1.0))

    try:
        yield
    finally:
        unregister(NAME)


def _graph_name(file: Path) -> str:
    import onnx

    return onnx.load(str(file)).graph.name
