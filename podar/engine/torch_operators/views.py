"""Operators that compute nothing: concatenations, slices, enlargements, views, copies."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import fx

from podar.engine.lowering import Lowering, Unsupported, argument, rule, shape_of

if TYPE_CHECKING:
    from podar_native import Value

aten = torch.ops.aten


@rule(aten.cat.default)
def cat(to: Lowering, node: fx.Node) -> Value:
    """A concatenation of channels, or of positions along a length."""
    rank = len(shape_of(node))
    axis = argument(node, 1, "dim", 0) % rank
    parts = [to.value(part, rows=False if rank == 3 else None) for part in node.args[0]]  # type: ignore[union-attr]
    if axis == 1:
        return to.network.concat(parts)
    if (rank, axis) == (3, 2):
        return to.network.join(parts)
    raise Unsupported("a concatenation along another axis than the channels")


@rule(aten.slice.Tensor)
def channels(to: Lowering, node: fx.Node) -> Value:
    """A slice of channels."""
    if argument(node, 1, "dim", 0) != 1 or argument(node, 4, "step", 1) != 1:
        raise Unsupported("a slice along another axis than the channels")
    x = to.value(node.args[0], rows=False if len(shape_of(node)) == 3 else None)
    first = argument(node, 2, "start") or 0
    first = max(0, first + x.channels) if first < 0 else first
    return to.network.channels(x, first, first + shape_of(node)[1])


@rule(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)
def upsample(to: Lowering, node: fx.Node) -> Value:
    """An enlargement by whole factors that repeats pixels."""
    x = to.value(node.args[0])
    high, wide = shape_of(node)[-2:]
    if high % x.height or wide % x.width:
        raise Unsupported("an enlargement by no whole factor")
    return to.network.upsample(x, (high // x.height, wide // x.width))


@rule(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.squeeze.dims, aten._unsafe_view.default)
def view(to: Lowering, node: fx.Node) -> Value:
    """A view that keeps one number a channel, or makes an image a sequence."""
    x = node.args[0]
    before, after = shape_of(x), shape_of(node)  # type: ignore[arg-type]
    if before == after:
        return to.value(x)
    if len(before) == 4 and after == (*before[:2], before[2] * before[3]):
        to.rows[node] = False
        return to.network.join([to.value(x)])
    # Only what keeps one number a channel: [N, C, 1, 1] and [N, C].
    if before[:2] != after[:2] or int(np.prod(before[2:])) != 1 or int(np.prod(after[2:])) != 1:
        raise Unsupported("a view that mixes channels and positions")
    to.rows[node] = False
    return to.value(x, rows=False)


@rule(aten.clone.default, aten.dropout.default, aten.contiguous.default, aten.alias.default)
def same(to: Lowering, node: fx.Node) -> Value:
    """What gives its input back: copies, dropout that is off."""
    if node.target is aten.dropout.default and node.args[2]:
        raise Unsupported("a dropout that is switched on")
    return to.value(node.args[0])
