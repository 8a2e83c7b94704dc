"""ONNX nodes put into a `podar_native.Network`; onnx_operators/ has the rule of each operator."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.engine.lowering import Unsupported
from podar.engine.onnx_graph import OnnxGraph
from podar.errors import require

if TYPE_CHECKING:
    from podar_native import Network, Value

Lower = Callable[["OnnxLowering", Any], "Value"]
LowerPart = Callable[["OnnxLowering", Any, str], "Value"]
RULES: dict[str, LowerPart] = {}


def rule(*names: str) -> Callable[[Lower], Lower]:
    """Register the function that lowers these operators, of one output each."""

    def register(function: Lower) -> Lower:
        RULES.update(dict.fromkeys(names, lambda to, node, output: function(to, node)))
        return function

    return register


def rule_of_parts(*names: str) -> Callable[[LowerPart], LowerPart]:
    """Register the function that lowers one output of these operators, which is named to it."""

    def register(function: LowerPart) -> LowerPart:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class OnnxLowering:
    """A network that grows from its outputs back to what is made outside of `inside`.

    - `graph`: the file; `inside`: the tensors that are made here.
    - Tensors of three axes are channels × length where they are among the graph's `planes`, else length × channels.
    """

    def __init__(self, graph: OnnxGraph, inside: Collection[str]) -> None:
        self.native = require("podar_native", extra="sparse")
        self.network: Network = self.native.Network()
        self.makers, self.samples, self.constants, self.inside = graph.makers, graph.samples, graph.constants, inside
        self.planes = graph.planes
        self.values: dict[str, Value] = {}
        self.outside: list[str] = []  # inputs, in the network's order

    def value(self, name: str) -> Value:
        """The value of a tensor; one that is made outside becomes an input."""
        if name in self.values:
            return self.values[name]
        if name in self.constants:
            raise Unsupported("an operand is a constant")
        maker = self.makers.get(name)
        if maker is not None and name in self.inside:
            return self.made(maker, name)
        shape = self.samples[name].shape
        self.values[name] = self.network.input(shape[1:], name, rows=self.is_rows(name))
        self.outside.append(name)
        return self.values[name]

    def made(self, node: Any, name: str) -> Value:
        """Lower the node that makes a tensor.

        **Raises:** `Unsupported`.
        """
        if node.op_type not in RULES or node.domain not in ("", "ai.onnx", "com.microsoft"):
            raise Unsupported("the engine has no such operator")
        try:
            self.values[name] = RULES[node.op_type](self, node, name)
        except ValueError as error:
            raise Unsupported(str(error).rstrip(".")) from error
        return self.values[name]

    def finish(self, name: str) -> None:
        """Give a tensor back."""
        shape = self.samples[name].shape
        self.network.output(self.value(name), shape[1:], name, rows=self.is_rows(name))

    def is_rows(self, name: str) -> bool:
        """Whether a tensor is length × channels."""
        return len(self.shape(name)) == 3 and name not in self.planes

    def named(self, node: Any) -> str:
        """What a layer is called: by its weight, or by its output where another layer has that weight too."""
        name = node.input[1].removesuffix(".weight")
        return name if all(layer.name != name for layer in self.network.nodes) else node.output[0]

    def constant(self, name: str) -> np.ndarray:
        """The numbers of a weight.

        **Raises:** `Unsupported` where it is computed.
        """
        if name not in self.constants:
            raise Unsupported("its weight is computed, not stored")
        return self.constants[name]

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.samples[name].shape) if name in self.samples else tuple(self.constants[name].shape)


def reason_against(node: Any, graph: OnnxGraph, batch: int) -> str | None:
    """Why the engine cannot run this node; None where it can."""
    if node.op_type not in RULES or node.domain not in ("", "ai.onnx", "com.microsoft"):
        return "the engine has no such operator"
    for name in (*node.input, *node.output):
        sample = graph.samples.get(name)
        if sample is None:
            continue  # a constant, or left out
        if sample.dtype != np.float32:
            return f"it works on {sample.dtype}"
        if not 2 <= sample.ndim <= 4 or sample.shape[0] != batch or sample.size == 0:
            return f"its tensors are no batch of {batch} images, sequences or vectors"
    inside = set(node.output)
    if node.op_type == "Add":  # the bias of the product before it
        inside |= {n for n in node.input if n in graph.makers and graph.makers[n].op_type == "MatMul"}
    lowering = OnnxLowering(graph, inside)
    try:
        for name in node.output:
            if name:
                lowering.finish(name)
    except (Unsupported, ValueError) as error:
        return str(error).rstrip(".")
    return None


def attributes(node: Any) -> dict[str, Any]:
    """A node's attributes as Python values."""
    onnx = require("onnx", extra="onnx")
    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}


def has_weight(node: Any) -> bool:
    return node.op_type in ("Conv", "Gemm", "MatMul")
