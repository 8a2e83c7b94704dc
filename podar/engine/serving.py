"""The sparse engine among the runtimes: program files (.podar), and whatever has zeros enough to gain by it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.errors import PodarError, first_line, require
from podar.runtimes.onnxruntime import serving, session
from podar.runtimes.register import runtime
from podar.runtimes.session import Port, Ready

if TYPE_CHECKING:
    from torch import nn

_SMALL = 256  # numbers of a matrix that is too small to tell by


class ProgramSession:
    """A program file in the engine, for any batch size."""

    def __init__(self, file: Path, threads: int) -> None:
        native = require("podar_native", extra="sparse")
        try:
            self._runner = native.Runner(file, threads=threads)
            description = self._runner.description
            self.inputs, self.outputs = _ports(description["inputs"]), _ports(description["outputs"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise PodarError(f"the sparse engine cannot open {file}: {first_line(error)}.") from error
        self.version = f"podar-native {native.__version__}"

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in order."""
        return self._runner.run(list(arrays))


class AcceleratedSession:
    """An ONNX file with its sparse layers in the engine and the rest in ONNX Runtime.

    What runs where is decided for the shapes of the first run, and again for other shapes.
    """

    def __init__(self, file: Path, threads: int) -> None:
        opened = serving(session(file, threads), str(file))
        self.inputs, self.outputs = opened.inputs, opened.outputs
        self.version = f"podar-native {require('podar_native', extra='sparse').__version__}"
        self._file, self._threads, self._name = file, threads, self.version
        self._shapes: list[tuple[int, ...]] | None = None
        self._fast: Any = None

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in order."""
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            from podar.engine.onnx_accelerating import accelerate_file

            self._fast = accelerate_file(self._file, list(arrays), threads=self._threads)
            self._shapes = shapes
            alone = self._fast.report.whole_in_onnxruntime
            self.version = f"{self._name} {'(all in onnxruntime)' if alone else '+ onnxruntime'}"
        return list(self._fast.run(list(arrays)).values())


def run_module(module: nn.Module, example_inputs: Any, threads: int) -> Ready:
    """A module through `podar.accelerate`."""
    import torch

    from podar.engine.accelerating import accelerate
    from podar.model.inputs import call
    from podar.runtimes.torch import as_for_serving

    if callable(example_inputs):
        raise PodarError("the sparse engine is measured on tensors: give a tensor, a tuple or a dict, not a callable.")
    with as_for_serving(module, threads):
        fast = accelerate(module, example_inputs)

    def run() -> Any:
        with torch.no_grad():
            return call(fast, example_inputs)

    host = "+ torch" if any(region.kept for region in fast.report.regions) else "(all in torch)"
    host = "(all in onnxruntime)" if fast.report.in_onnxruntime else host
    return Ready(f"podar-native {require('podar_native', extra='sparse').__version__} {host}", run)


def count_nonzeros(file: Path) -> int | None:
    """How many weights a program file, or the matrices of an ONNX file, have that are not zero."""
    if file.suffix.lower() != ".onnx":
        layers = require("podar_native", extra="sparse").Runner(file).description["layers"]
        return sum(layer["nonzeros"] for layer in layers)
    try:
        return sum(nonzeros for nonzeros, _ in _matrices(file))
    except ImportError:
        return None


def gains(model: Any) -> bool:
    """Whether half of some layer's weights are zeros. Of an ONNX file the package onnx tells; without it, no."""
    if not isinstance(model, (str, Path)):
        matrices = [p for p in model.parameters() if p.ndim > 1 and p.numel() and not p.is_cuda]
        return any(2 * int(p.count_nonzero()) <= p.numel() for p in matrices)
    if Path(model).suffix.lower() != ".onnx":
        return True
    try:
        return any(2 * nonzeros <= size for nonzeros, size in _matrices(Path(model)) if size > _SMALL)
    except Exception:  # no package onnx, or no ONNX file: who opens it says so
        return False


def _matrices(file: Path) -> Iterator[tuple[int, int]]:
    """Nonzero and all numbers of every matrix among an ONNX file's weights."""
    import onnx

    from podar.runtimes.onnx_files import refuse_outside

    refuse_outside(file)
    graph = onnx.load(str(file), load_external_data=False).graph
    for tensor in graph.sparse_initializer:
        yield len(tensor.indices.dims) and int(tensor.indices.dims[0]), int(np.prod(tensor.dims))
    constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            numbers = onnx.numpy_helper.to_array(tensor, base_dir=str(file.parent))
            yield int(np.count_nonzero(numbers)), numbers.size


def _ports(entries: Sequence[dict[str, Any]]) -> tuple[Port, ...]:
    """Tensors of a program, in any batch size."""
    return tuple(Port(entry["name"], (None, *entry["shape"]), "float32") for entry in entries)


@runtime(
    "podar", package="podar_native", extra="sparse", suffixes=(".podar", ".onnx"),
    takes=gains, weights=count_nonzeros, module=run_module,
)  # fmt: skip
def open_(file: Path, threads: int) -> ProgramSession | AcceleratedSession:
    """A program file, or an ONNX file through `podar.accelerate`."""
    return (AcceleratedSession if file.suffix.lower() == ".onnx" else ProgramSession)(file, threads)
