"""Elementwise functions of one tensor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.engine.lowering import Unsupported
from podar.engine.onnx_lowering import OnnxLowering, attributes, rule

if TYPE_CHECKING:
    from podar_native import Value


def _activate(to: OnnxLowering, node: Any, name: str, *numbers: float) -> Value:
    return to.network.activate(to.value(node.input[0]), to.native.Activation(name, *numbers))


@rule("Relu", "Sigmoid", "Tanh", "HardSwish")
def plain(to: OnnxLowering, node: Any) -> Value:
    """An elementwise function without settings."""
    return _activate(to, node, node.op_type.lower())


@rule("LeakyRelu")
def leaky_relu(to: OnnxLowering, node: Any) -> Value:
    """Leaky ReLU."""
    return _activate(to, node, "leaky_relu", float(attributes(node).get("alpha", 0.01)))


@rule("HardSigmoid")
def hard_sigmoid(to: OnnxLowering, node: Any) -> Value:
    """A hard sigmoid of slope 1/6."""
    given = attributes(node)
    if abs(given.get("alpha", 0.2) - 1 / 6) > 1e-6 or given.get("beta", 0.5) != 0.5:
        raise Unsupported("a hard sigmoid of another slope than a sixth")
    return _activate(to, node, "hardsigmoid")


@rule("QuickGelu", "Swish")
def silu(to: OnnxLowering, node: Any) -> Value:
    """x · sigmoid(x)."""
    if attributes(node).get("alpha", 1.702 if node.op_type == "QuickGelu" else 1.0) != 1.0:
        raise Unsupported("x · sigmoid(a · x) with another a than one")
    return _activate(to, node, "silu")


@rule("Gelu")
def gelu(to: OnnxLowering, node: Any) -> Value:
    """GELU, exact or by tanh."""
    return _activate(to, node, "gelu_tanh" if attributes(node).get("approximate") == b"tanh" else "gelu")


@rule("Clip")
def clip(to: OnnxLowering, node: Any) -> Value:
    """A clamp between two numbers."""
    given = attributes(node)
    low, high = given.get("min", -float("inf")), given.get("max", float("inf"))
    if len(node.input) > 1 and node.input[1]:
        low = float(to.constant(node.input[1]))
    if len(node.input) > 2 and node.input[2]:
        high = float(to.constant(node.input[2]))
    return _activate(to, node, "clamp", low, high)
