"""What of an ONNX graph stays float, known by how the graph is built and not by names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
VIEWS = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Identity"}
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger")


def quantizing_node(model: Any) -> str | None:
    """The kind of the first operator that shows that a model is quantised already; None where there is none."""
    for node in model.graph.node:
        if node.op_type in _QUANTIZED or node.op_type.startswith("QLinear") or node.op_type == "MatMulNBits":
            return node.op_type
    return None


def name_nodes(model: Any) -> None:
    """Give every node a name of its own: what is left out is named."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph.node):
        if not node.name or node.name in taken:
            node.name = f"{node.op_type}_{number}"
            while node.name in taken:
                node.name += "_"
        taken.add(node.name)


def layers(model: Any) -> list[str]:
    """The nodes with the work of the network, in its order."""
    return [node.name for node in model.graph.node if node.op_type in LAYERS]


def held(model: Any) -> dict[str, str]:
    """Nodes that stay float, and why: softmax, what decodes behind the last layers, and a detector's last layers."""
    nodes = list(model.graph.node)
    makers = {name: node for node in nodes for name in node.output if name}
    sums = {node.name for node in nodes if _sums_a_distribution(node, makers, model)}
    working = {node.name for node in nodes if node.op_type in LAYERS} - sums
    before_a_layer = _before(nodes, makers, working)
    tail = [node for node in nodes if node.name not in before_a_layer | working]
    found = {node.name: "softmax" for node in nodes if node.op_type == "Softmax"}
    found |= {node.name: "behind the last layers" for node in tail if node.op_type not in VIEWS}
    last = {maker.name for node in tail for maker in _makers(node, makers) if maker.name in working}
    if len(last) > 1 and any(node.op_type == "Concat" for node in tail):
        found |= dict.fromkeys(last, "the last layers of a head whose answers are joined")
    return found


def _makers(node: Any, makers: dict[str, Any]) -> Iterator[Any]:
    """The nodes that make what a node reads."""
    return (makers[name] for name in node.input if name in makers)


def _before(nodes: list[Any], makers: dict[str, Any], working: set[str]) -> set[str]:
    """Names of all nodes whose results a working layer needs."""
    found: set[str] = set()
    waiting = [maker for node in nodes if node.name in working for maker in _makers(node, makers)]
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += _makers(node, makers)
    return found


def _sums_a_distribution(node: Any, makers: dict[str, Any], model: Any) -> bool:
    """Whether a convolution of one output sums up what a softmax gives: it decodes the side of a box."""
    if node.op_type != "Conv" or len(node.input) < 2:
        return False
    weight = next((tensor for tensor in model.graph.initializer if tensor.name == node.input[1]), None)
    if weight is None or not weight.dims or weight.dims[0] != 1:
        return False
    maker = makers.get(node.input[0])
    while maker is not None and maker.op_type in VIEWS:
        maker = makers.get(maker.input[0])
    return maker is not None and maker.op_type == "Softmax"
