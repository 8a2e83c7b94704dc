"""Sums, differences, products and quotients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import fx

from podar.engine.lowering import Lowering, Unsupported, argument, rule, shape_of

if TYPE_CHECKING:
    from podar_native import Value

aten = torch.ops.aten


@rule(aten.add.Tensor, aten.sub.Tensor)
def add(to: Lowering, node: fx.Node) -> Value:
    """A sum or difference of two tensors, of a tensor and a stored one, or of a tensor and a number."""
    minus = node.target is aten.sub.Tensor
    first, second = node.args[0], node.args[1]
    alpha = argument(node, 2, "alpha", 1)
    if isinstance(second, (int, float)):
        return _affine(to, first, 1.0, (-second if minus else second) * alpha)
    if alpha != 1:
        raise Unsupported("an addition with a factor")
    x, y = _operands(to, first, second)
    wide = tuple(map(max, x.shape, y.shape))
    x, y = (_widened(to, v, n, wide) for v, n in ((x, first), (y, second)))
    return to.network.subtract(x, y) if minus else to.network.add(x, y)


@rule(aten.mul.Tensor)
def mul(to: Lowering, node: fx.Node) -> Value:
    """A product of two tensors, where the smaller one may be one number a channel, or of a tensor and a number."""
    first, second = node.args[0], node.args[1]
    if isinstance(second, (int, float)):
        return _affine(to, first, float(second), 0.0)
    x, y = _operands(to, first, second)
    if x.channels * x.height * x.width < y.channels * y.height * y.width:
        x, y = y, x
    if y.shape == (1, 1, 1) and x.channels > 1:
        raise Unsupported("an operand is one number")
    return to.network.mul(x, y)


@rule(aten.div.Tensor)
def div(to: Lowering, node: fx.Node) -> Value:
    """A tensor divided by a number."""
    if not isinstance(node.args[1], (int, float)):
        raise Unsupported("a division by a tensor")
    return _affine(to, node.args[0], 1.0 / node.args[1], 0.0)


def _affine(to: Lowering, node: Any, factor: float, summand: float) -> Value:
    x = to.value(node)
    return to.network.activate(x, to.native.Activation("affine", float(factor), float(summand)))


def _operands(to: Lowering, first: Any, second: Any) -> tuple[Value, Value]:
    """Two values, of which one may be stored; tensors of a batch have equally many axes."""
    if not isinstance(first, fx.Node) or not isinstance(second, fx.Node):
        raise Unsupported("an operand is a number")
    stored = [n.op == "get_attr" for n in (first, second)]
    if all(stored):
        raise Unsupported("an operand is a constant")
    if not any(stored) and len(shape_of(first)) != len(shape_of(second)):
        raise Unsupported("operands have different numbers of axes")
    if stored[0]:
        y = to.value(second)
        return to.operand(first, second), y
    x = to.value(first)
    return x, to.operand(second, first)


def _widened(to: Lowering, x: Value, node: Any, shape: tuple[int, ...]) -> Value:
    """A stored tensor at the size of what it is added to."""
    if x.shape == shape or node.op != "get_attr":
        return x
    numbers = to.network.nodes.pop().settings["numbers"]
    return to.network.constant(np.broadcast_to(numbers, shape))
