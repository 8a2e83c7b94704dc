"""OpenVINO: its own .xml files with their .bin beside them, and ONNX files, on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from podar.errors import PodarError, first_line, require
from podar.runtimes.onnx_files import refuse_outside, refuse_sidecar
from podar.runtimes.register import runtime
from podar.runtimes.session import Port


class OpenVinoSession:
    """A model in OpenVINO, compiled when the sizes of its inputs are known.

    A size left open costs OpenVINO speed, and whoever deploys a model sets it; so the model is compiled for the shapes
    of its first run, and again for other shapes.
    """

    def __init__(self, model: Any, threads: int) -> None:
        ov = require("openvino", extra="openvino")
        self.inputs = tuple(map(_port, model.inputs))
        self.outputs = tuple(map(_port, model.outputs))
        self.version = f"openvino {ov.__version__.partition('-')[0]}"
        self._model, self._threads = model, threads
        self._shapes: list[tuple[int, ...]] | None = None
        self._request: Any = None

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in order."""
        shapes = [array.shape for array in arrays]
        if shapes != self._shapes:
            self._request, self._shapes = self._compiled(shapes), shapes
        found = self._request.infer(list(arrays), share_inputs=True)
        return [found[index] for index in range(len(self.outputs))]

    def _compiled(self, shapes: Sequence[tuple[int, ...]]) -> Any:
        model = self._model.clone()
        model.reshape({port: list(shape) for port, shape in zip(model.inputs, shapes)})
        how = {
            "INFERENCE_PRECISION_HINT": "f32",  # it would round to bfloat16 where the processor can
            "INFERENCE_NUM_THREADS": self._threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        core = require("openvino", extra="openvino").Core()
        return core.compile_model(model, "CPU", how).create_infer_request()


def _port(port: Any) -> Port:
    shape = port.get_partial_shape()
    sizes = () if shape.rank.is_dynamic else tuple(None if n.is_dynamic else n.get_length() for n in shape)
    kind = port.get_element_type()
    name = port.get_any_name() if port.get_names() else port.get_node().get_friendly_name()
    return Port(name, sizes, "bfloat16" if kind.get_type_name() == "bf16" else np.dtype(kind.to_dtype()).name)


def _read(file: Path) -> Any:
    """The model of a file.

    **Raises:** `PodarError` for what is no model, or keeps its weights outside of its folder.
    """
    if file.suffix.lower() == ".onnx":
        refuse_outside(file)
    else:
        refuse_sidecar(file, file.with_suffix(".bin"))
        with file.open("rb") as opened:
            begins = opened.read(64).removeprefix(b"\xef\xbb\xbf").lstrip()
        if not begins.startswith(b"<"):  # OpenVINO goes by what a file holds, and reads ten other formats
            raise PodarError(f"{file} is no XML, which OpenVINO's files are: name other formats by their own suffix.")
    try:
        return require("openvino", extra="openvino").Core().read_model(str(file))
    except Exception as error:  # its errors share no base class
        raise PodarError(f"{file} is not a model that OpenVINO can open: {_said(error)}.") from error


def _said(error: Exception) -> str:
    """What OpenVINO says went wrong, without the places in its source that come first."""
    lines = [line for line in str(error).splitlines() if not line.startswith(("Exception from", "Check '"))]
    return " ".join(" ".join(lines).split())[:300].rstrip(".") or first_line(error)


def count_weights(file: Path) -> int:
    """How many floating-point numbers a file stores as constants."""
    constants = [op for op in _read(file).get_ops() if op.get_type_name() == "Constant"]
    return sum(int(np.prod(c.get_output_shape(0))) for c in constants if c.get_output_element_type(0).is_real())


@runtime(
    "openvino", package="openvino", suffixes=(".xml", ".onnx"), sidecars=(".bin",), widths=8, weights=count_weights
)
def open_(file: Path, threads: int) -> OpenVinoSession:
    """OpenVINO on the CPU in float32, one stream."""
    model = _read(file)
    try:
        return OpenVinoSession(model, threads)
    except Exception as error:  # types that numpy does not have
        raise PodarError(f"{file} cannot be run here: {first_line(error)}.") from error
