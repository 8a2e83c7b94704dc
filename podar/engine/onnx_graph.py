"""An ONNX file as the engine sees it: simplified by ONNX Runtime for fixed sizes, run once, cut into pieces."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from podar.errors import PodarError, UsageError, first_line, require
from podar.runtimes.file_inputs import matched, random_inputs
from podar.runtimes.onnxruntime import OnnxSession, serving, session

# These would join a convolution or product with its activation into an operator that only ONNX Runtime knows.
_NO_FUSION = ["ConvActivationFusion", "GemmActivationFusion", "MatMulActivationFusion", "BiasGeluFusion"]

_VIEWS = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
_MAKE_PLANES = {"Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "BatchNormalization"}
_KEEP_AXES = set(
    "Add Mul Concat Split Slice Identity Dropout Relu Sigmoid Tanh HardSwish LeakyRelu HardSigmoid QuickGelu Swish "
    "Gelu Clip".split()
)


@dataclass(frozen=True)
class OnnxGraph:
    """A simplified graph.

    - `model`: its protobuf; `makers`: the node behind each tensor; `constants`: weights by name.
    - `feed`: the example inputs; `samples`: every other tensor of one run on them.
    - `planes`: the tensors of three axes that are channels × length, since a convolution or pooling meets them.
    """

    model: Any
    makers: Mapping[str, Any]
    constants: Mapping[str, np.ndarray]
    feed: Mapping[str, np.ndarray]
    samples: Mapping[str, np.ndarray]
    planes: Collection[str]


def with_inputs(path: Path, example_inputs: Any, threads: int) -> tuple[OnnxSession, dict[str, np.ndarray]]:
    """The file as it is in ONNX Runtime, and example inputs for it.

    `example_inputs`: as for `accelerate`, arrays or tensors; None where the file itself fixes all sizes.

    **Raises:** `PodarError` for a missing file, what is no ONNX file, inputs that do not fit; `UsageError` for open
    sizes without example inputs.
    """
    if not path.is_file():
        raise PodarError(f"cannot accelerate {path}: there is no such file.")
    served = serving(session(path, threads), str(path))
    if example_inputs is not None:
        return served, matched(path, served.inputs, example_inputs)
    for port in served.inputs:
        if None in port.shape:
            raise UsageError(f"the sizes of {path} are open ({port.name} is {port}): give example_inputs.")
    return served, random_inputs(served.inputs)


def simplified_graph(path: Path, feed: Mapping[str, np.ndarray]) -> OnnxGraph:
    """Simplify a file for inputs of these shapes, and run it.

    **Raises:** `PodarError` where ONNX Runtime or onnx cannot do that.
    """
    onnx = require("onnx", extra="onnx")
    ort = require("onnxruntime", extra="onnx")
    model = onnx.load(str(path), load_external_data=False)
    with tempfile.TemporaryDirectory() as folder:
        # Sizes that are known make shape computations constants, which ONNX Runtime then computes away.
        for entry in model.graph.input:
            if entry.name in feed:
                dims = entry.type.tensor_type.shape.dim
                for dim, size in zip(dims, feed[entry.name].shape):
                    dim.Clear()
                    dim.dim_value = size
        simple = Path(folder) / "simple.onnx"
        try:
            onnx.load_external_data_for_model(model, str(path.parent))
            _fill_sparse(model.graph)
            fixed = Path(folder) / "fixed.onnx"
            onnx.save(model, str(fixed), save_as_external_data=path.stat().st_size > 2**30 or _beside(path))
            session(
                str(fixed), 1, name="its copy of fixed sizes",
                graph_optimization_level=ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
                optimized_model_filepath=str(simple), without=_NO_FUSION,
            )  # fmt: skip
            model = onnx.load(str(simple))
        except Exception as error:
            raise PodarError(f"ONNX Runtime cannot simplify {path}: {first_line(error)}.") from error
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output if name}
    try:
        samples = _samples(model, feed)
    except Exception as error:
        raise PodarError(f"{path} does not run on the example inputs: {first_line(error)}.") from error
    return OnnxGraph(model, makers, constants, feed, samples, _planes(model.graph.node, samples))


def _planes(nodes: Sequence[Any], samples: Mapping[str, np.ndarray]) -> set[str]:
    """Spread from convolutions, poolings and views of images over the operators that keep every axis where it is."""
    planes: set[str] = set()
    grown = True
    while grown:
        grown = False
        for node in nodes:
            three = {n for n in (*node.input, *node.output) if n in samples and samples[n].ndim == 3}
            views = [samples[n].shape for n in (node.input[0], node.output[0]) if n in samples] if node.input else []
            from_image = node.op_type in _VIEWS and {len(v) for v in views} == {3, 4} and views[0][:2] == views[1][:2]
            if from_image or node.op_type in _MAKE_PLANES or (node.op_type in _KEEP_AXES and three & planes):
                grown = grown or not three <= planes
                planes |= three
    return planes


def _fill_sparse(graph: Any) -> None:
    """Sparse initialisers written out with their zeros: the optimiser keeps them aside."""
    helper = require("onnx", extra="onnx").numpy_helper
    for tensor in graph.sparse_initializer:
        values, places = helper.to_array(tensor.values), helper.to_array(tensor.indices)
        full = np.zeros(tuple(tensor.dims), values.dtype)
        if places.ndim == 1:
            full.reshape(-1)[places] = values
        else:
            full[tuple(places.T)] = values
        graph.initializer.append(helper.from_array(full, tensor.values.name))
    del graph.sparse_initializer[:]


def _beside(path: Path) -> bool:
    return path.with_name(path.name + ".data").exists()


def _samples(model: Any, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    onnx = require("onnx", extra="onnx")
    ort = require("onnxruntime", extra="onnx")
    with_all_outputs = onnx.ModelProto()
    with_all_outputs.CopyFrom(model)
    del with_all_outputs.graph.output[:]
    names = [name for node in model.graph.node for name in node.output if name]
    with_all_outputs.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    outputs = session(_bytes(with_all_outputs), 1, graph_optimization_level=level).run(names, dict(feed))
    return dict(feed) | {n: v for n, v in zip(names, outputs) if isinstance(v, np.ndarray)}


def _bytes(model: Any) -> bytes:
    try:
        return model.SerializeToString()
    except ValueError as error:
        raise PodarError("the model has more than 2 GB of weights, which accelerate cannot take apart") from error


# --- pieces ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Piece:
    """Nodes that run together, after all earlier pieces: the tensors they read, and those that others need."""

    nodes: tuple[Any, ...]
    in_engine: bool
    reads: tuple[str, ...]
    gives: tuple[str, ...]


def cut(graph: OnnxGraph, engine: Collection[int]) -> list[Piece]:
    """Cut the graph into pieces that alternate between ONNX Runtime and the engine. `engine`: indices of nodes.

    Each node goes into the earliest piece of its kind that all it reads allows, so no piece waits for itself.
    """
    nodes = list(graph.model.graph.node)
    level_of: dict[str, int] = {}
    levels: dict[int, list[int]] = {}
    for i, node in enumerate(nodes):
        parity = int(i in engine)
        level = parity
        for name in reads_of(node):
            if name in level_of:
                before = level_of[name]
                level = max(level, before + (before % 2 != parity))
        levels.setdefault(level, []).append(i)
        level_of |= {name: level for name in node.output if name}
    wanted = [o.name for o in graph.model.graph.output]
    given = list(graph.feed)
    readers: dict[str, set[int]] = {}
    for i, node in enumerate(nodes):
        for name in reads_of(node):
            readers.setdefault(name, set()).add(i)
    pieces = []
    for level in sorted(levels):
        members = levels[level]
        inside = {name for i in members for name in nodes[i].output if name}
        reads = dict.fromkeys(
            n for i in members for n in reads_of(nodes[i]) if n not in inside and n not in graph.constants
        )
        own = set(members)
        gives = [n for i in members for n in nodes[i].output if n and (n in wanted or readers.get(n, set()) - own)]
        # The file's own inputs and outputs first, in its order: a piece that is the whole file keeps it.
        reads = [n for n in given if n in reads] + [n for n in reads if n not in given]
        gives = [n for n in wanted if n in gives] + [n for n in gives if n not in wanted]
        pieces.append(Piece(tuple(nodes[i] for i in members), bool(level % 2), tuple(reads), tuple(gives)))
    return pieces


def reads_of(node: Any) -> list[str]:
    """All tensors a node reads, those of the graphs inside it too."""
    names = [name for name in node.input if name]
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.HasField("g") else list(attribute.graphs)
        for graph in graphs:
            own = {n for inner in graph.node for n in inner.output} | {t.name for t in graph.initializer}
            own |= {entry.name for entry in graph.input}
            names += [n for inner in graph.node for n in reads_of(inner) if n not in own]
            names += [entry.name for entry in graph.output if entry.name not in own]
    return list(dict.fromkeys(names))


def as_model(piece: Piece, whole: OnnxGraph) -> bytes:
    """A piece as an ONNX model of its own."""
    onnx = require("onnx", extra="onnx")
    used = {name for node in piece.nodes for name in reads_of(node)}
    weights = [t for t in whole.model.graph.initializer if t.name in used]

    def info(name: str) -> Any:
        sample = whole.samples[name]
        dtype = onnx.helper.np_dtype_to_tensor_dtype(sample.dtype)
        return onnx.helper.make_tensor_value_info(name, dtype, sample.shape)

    graph = onnx.helper.make_graph(
        list(piece.nodes), "piece", [info(n) for n in piece.reads], [info(n) for n in piece.gives], weights
    )
    model = onnx.helper.make_model(graph, opset_imports=list(whole.model.opset_import))
    model.ir_version = whole.model.ir_version
    return _bytes(model)
