"""ONNX Runtime: static encodings as QDQ files, and a dynamic one for products, each with layers left out at will."""

from __future__ import annotations

import contextlib
import copy
import logging
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from podar.errors import PodarError, first_line, require
from podar.measuring import processor
from podar.quantization import onnx_graph
from podar.quantization.register import Encoding, Prepared, backend
from podar.quantization.samples import Samples

_KINDS = (
    "Conv ConvTranspose Gemm MatMul Add Mul Relu Clip LeakyRelu Sigmoid MaxPool AveragePool GlobalAveragePool Concat "
    "Reshape Transpose Squeeze Unsqueeze Flatten Split Slice Pad Resize"
).split()
_PRODUCTS = ("MatMul", "Gemm", "LSTM", "Attention")
_FAST = {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"}  # multiply bytes without running over: no range is to be reduced


@dataclass(frozen=True)
class _Static:
    """One static encoding: the types of activations and weights, ranges a tensor or a channel, full or reduced."""

    name: str
    activations: str
    weights: str
    per_channel: bool = False
    reduced: bool = False
    kinds: tuple[str, ...] = tuple(_KINDS)


_EVERYWHERE = (
    _Static("S8S8", "QInt8", "QInt8"),
    _Static("S8S8 per channel", "QInt8", "QInt8", per_channel=True),
    _Static("U8U8", "QUInt8", "QUInt8"),
    _Static("U8S8 per channel, reduced range", "QUInt8", "QInt8", per_channel=True, reduced=True),
)
_WHERE_FAST = _Static("U8S8 per channel", "QUInt8", "QInt8", per_channel=True)
_LAYERS_ALONE = _Static(
    "U8S8 per channel, reduced range, layers alone", "QUInt8", "QInt8", per_channel=True, reduced=True,
    kinds=onnx_graph.LAYERS,
)  # fmt: skip
_PLAIN = {*"Conv Gemm ReduceMean Relu Clip Add MaxPool AveragePool GlobalAveragePool".split(), *onnx_graph.VIEWS}
"""Operators between which nothing has to become float and back."""


@backend(
    "onnxruntime", format="onnx", suffix=".onnx", packages=("onnx",), extra="onnx",
    help="static QDQ files and dynamic products",
)  # fmt: skip
def prepare(file: Path, samples: Samples, folder: Path) -> Prepared:
    """Simplify the file, fold its norms, measure every tensor's range once, and list the encodings."""
    onnx = require("onnx", extra="onnx")
    found = onnx_graph.quantizing_node(onnx.load(str(file), load_external_data=False))
    if found is not None:
        raise PodarError(f"the model is quantised already (it holds {found}): give the float model that it came from.")
    ready = folder / "simplified.onnx"
    with _quiet():
        model = _simplified(onnx, file, ready)
        ranges = _ranges(ready, samples, folder / "watched.onnx")
    held = onnx_graph.held(model)
    kinds = {node.op_type for node in model.graph.node}
    static = [*_EVERYWHERE]
    static += [_WHERE_FAST] if _FAST & set(processor().instruction_sets) else []
    static += [_LAYERS_ALONE] if kinds - _PLAIN else []
    encodings = [Encoding(each.name, _writer(each, model, ranges, held)) for each in static]
    if kinds & set(_PRODUCTS):
        encodings.append(Encoding("dynamic products", _dynamic_writer(ready, held)))
    return Prepared(tuple(encodings), tuple(n for n in onnx_graph.layers(model) if n not in held), held)


def _simplified(onnx: Any, file: Path, ready: Path) -> Any:
    """The graph with norms folded, constants computed, shapes known and every node named."""
    from onnxruntime.quantization.quant_utils import load_model_with_shape_infer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    failed: Exception | None = None
    for without in (False, True):  # shapes by symbols do not know every operator
        try:
            quant_pre_process(str(file), str(ready), skip_symbolic_shape=without)
            break
        except Exception as error:  # asserts, its own, and whatever its helpers raise
            failed = error
    else:
        raise PodarError(f"ONNX Runtime cannot prepare {file.name} for quantization: {_said(failed)}.") from failed
    model = onnx.load(str(ready))
    onnx_graph.name_nodes(model)
    told = {entry.key: entry.value for entry in onnx.load(str(file), load_external_data=False).metadata_props}
    onnx.helper.set_model_props(model, told | {entry.key: entry.value for entry in model.metadata_props})
    onnx.save(model, str(ready))
    return load_model_with_shape_infer(ready)


def _ranges(ready: Path, samples: Samples, watched: Path) -> Any:
    """The smallest and largest value of every tensor, over the samples."""
    from onnxruntime.quantization.calibrate import CalibrationDataReader, create_calibrator

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(samples.feeds)

        def get_next(self) -> Any:
            return next(self.feeds, None)

    try:
        calibrator: Any = create_calibrator(ready, _KINDS, augmented_model_path=str(watched))
        calibrator.collect_data(Reader())
        return calibrator.compute_data()
    except Exception as error:
        raise PodarError(f"ONNX Runtime cannot measure ranges on the data: {_said(error)}.") from error
    finally:
        watched.unlink(missing_ok=True)


def _writer(how: _Static, model: Any, ranges: Any, held: Collection[str]) -> Any:
    def write(path: Path, left_out: Collection[str]) -> None:
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        with _quiet():
            quantizer = QDQQuantizer(
                copy.deepcopy(model), how.per_channel, how.reduced, QuantType[how.weights], QuantType[how.activations],
                ranges, [], [*held, *left_out], list(how.kinds), {},
            )  # fmt: skip
            quantizer.quantize_model()
            del quantizer.model.model.metadata_props[:]
            quantizer.model.model.metadata_props.extend(model.metadata_props)
            quantizer.model.save_model_to_file(str(path), False)

    return write


def _dynamic_writer(ready: Path, held: Collection[str]) -> Any:
    def write(path: Path, left_out: Collection[str]) -> None:
        from onnxruntime.quantization import QuantType, quantize_dynamic

        reduced = not _FAST & set(processor().instruction_sets)
        with _quiet():
            quantize_dynamic(
                str(ready), str(path), op_types_to_quantize=list(_PRODUCTS), per_channel=True, reduce_range=reduced,
                weight_type=QuantType.QInt8, nodes_to_exclude=[*held, *left_out],
            )  # fmt: skip

    return write


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ONNX Runtime's tools from talking: they advise what podar does, and log on the root logger."""
    import onnxruntime as ort

    disabled = logging.root.manager.disable
    ort.set_default_logger_severity(4)
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
        ort.set_default_logger_severity(2)


def _said(error: BaseException | None) -> str:
    return first_line(error) if error is not None else "no reason was given"
