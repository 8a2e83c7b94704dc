"""OpenVINO: NNCF quantises the file, with activations around zero or shifted; layers are left out at will."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Collection, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from podar.errors import PodarError, require
from podar.quantization import onnx_graph
from podar.quantization.register import Encoding, Prepared, backend
from podar.quantization.samples import Samples

# What onnx_graph calls the operators that it looks at.
_KINDS = {
    "Convolution": "Conv",
    "GroupConvolution": "Conv",
    "ConvolutionBackpropData": "ConvTranspose",
    "GroupConvolutionBackpropData": "ConvTranspose",
    "SoftMax": "Softmax",
}
_NO_WORK = {"Constant", "Parameter", "Result", "Convert", "ShapeOf"}
_PRESETS = {"int8 symmetric": "PERFORMANCE", "int8 mixed": "MIXED"}


@backend(
    "openvino", format="openvino", suffix=".xml", packages=("nncf",), extra="quantization",
    help="NNCF's 8 bits, symmetric or mixed",
)  # fmt: skip
def prepare(file: Path, samples: Samples, folder: Path) -> Prepared:
    """Read the file, and list NNCF's two presets."""
    model = require("openvino", extra="openvino").Core().read_model(str(file))
    if any(op.get_type_name() == "FakeQuantize" for op in model.get_ops()):
        raise PodarError("the model is quantised already (it holds FakeQuantize): give the float model it came from.")
    graph = _as_onnx(model)
    kinds = {node.name: node.op_type for node in graph.graph.node}
    held = {name: why for name, why in onnx_graph.held(graph).items() if kinds[name] not in _NO_WORK}
    encodings = tuple(Encoding(name, _writer(file, samples, preset, held)) for name, preset in _PRESETS.items())
    return Prepared(encodings, tuple(name for name in onnx_graph.layers(graph) if name not in held), held)


def _writer(file: Path, samples: Samples, preset: str, held: Collection[str]) -> Any:
    def write(path: Path, left_out: Collection[str]) -> None:
        ov = require("openvino", extra="openvino")
        with _quiet():
            nncf = require("nncf", extra="quantization")
            floats = sorted({*held, *left_out})
            quantized = nncf.quantize(
                ov.Core().read_model(str(file)),
                nncf.Dataset(list(samples.feeds)),
                preset=nncf.QuantizationPreset[preset],
                target_device=nncf.TargetDevice.CPU,
                subset_size=len(samples.feeds),
                ignored_scope=nncf.IgnoredScope(names=floats, validate=False) if floats else None,
            )
            ov.save_model(quantized, str(path), compress_to_fp16=False)

    return write


def _as_onnx(model: Any) -> Any:
    """The graph in ONNX's words, as far as `onnx_graph` asks for them."""
    nodes, weights = [], []
    for op in model.get_ordered_ops():
        name, kind = op.get_friendly_name(), op.get_type_name()
        read = [value.get_source_output() for value in op.inputs()]
        inputs = [f"{source.get_node().get_friendly_name()}:{source.get_index()}" for source in read]
        outputs = [f"{name}:{k}" for k in range(op.get_output_size())]
        nodes.append(SimpleNamespace(name=name, op_type=_KINDS.get(kind, kind), input=inputs, output=outputs))
        if kind == "Constant":
            weights.append(SimpleNamespace(name=outputs[0], dims=list(op.get_output_shape(0))))
    return SimpleNamespace(graph=SimpleNamespace(node=nodes, initializer=weights))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep NNCF from talking: it logs, and draws bars on standard output."""
    disabled = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
