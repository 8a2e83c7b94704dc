"""Sums and products of tensors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.engine.lowering import Unsupported
from podar.engine.onnx_lowering import OnnxLowering, rule
from podar.engine.onnx_operators.layers import product

if TYPE_CHECKING:
    from podar_native import Value


@rule("Add")
def add(to: OnnxLowering, node: Any) -> Value:
    """A sum of two tensors; a stored vector after a product is its bias."""
    for data, other in (tuple(node.input), tuple(node.input)[::-1]):
        maker = to.makers.get(data)
        if other in to.constants and data in to.inside and maker is not None and maker.op_type == "MatMul":
            bias = to.constants[other]
            if bias.shape == to.shape(data)[-1:]:
                return product(to, maker, bias)
    x, y = (to.value(n) for n in _alike(to, node))
    return to.network.add(x, y)


@rule("Mul")
def mul(to: OnnxLowering, node: Any) -> Value:
    """A product of two tensors, where the smaller one may be one number a channel."""
    x, y = (to.value(n) for n in _alike(to, node))
    if x.shape != y.shape and y.height * y.width > 1:
        x, y = y, x
    return to.network.mul(x, y)


def _alike(to: OnnxLowering, node: Any) -> tuple[str, str]:
    if len(to.shape(node.input[0])) != len(to.shape(node.input[1])):
        raise Unsupported("operands have different numbers of axes")
    return node.input[0], node.input[1]
