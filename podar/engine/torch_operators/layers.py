"""Layers: convolutions, linear layers, poolings and attention, as the engine knows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import fx

from podar.engine.attention import attention
from podar.engine.lowering import Lowering, Unsupported, argument, on_two_axes, over_length, pair, rule, shape_of

if TYPE_CHECKING:
    from podar_native import Value

aten = torch.ops.aten


@rule(aten.conv2d.default, aten.conv2d.padding, aten.conv1d.default, aten.conv1d.padding)
def conv(to: Lowering, node: fx.Node) -> Value:
    """A convolution over an image or a length; "same" and "valid" padding are written out."""
    weight = to.constant(node.args[1])
    bias_node = argument(node, 2, "bias")
    bias = None if bias_node is None else to.constant(bias_node)
    flat = over_length(node)
    if flat:
        weight = weight[:, :, None]
    stride, padding, dilation = (
        argument(node, 3, "stride", 1), argument(node, 4, "padding", 0), argument(node, 5, "dilation", 1)
    )  # fmt: skip
    steps, spread = on_two_axes(stride, flat, 1), on_two_axes(dilation, flat, 1)
    if padding == "valid":
        padding = 0
    elif padding == "same":
        around = [d * (k - 1) for d, k in zip(spread, weight.shape[2:])]
        if any(n % 2 for n in around):
            raise Unsupported("it pads one side more than the other")
        padding = around[1] // 2 if flat else [n // 2 for n in around]
    x = to.value(node.args[0], rows=False)
    return to.network.conv(
        x,
        weight,
        bias,
        stride=steps,
        padding=on_two_axes(padding, flat, 0),
        dilation=spread,
        groups=int(argument(node, 6, "groups", 1)),
        name=to.named(node),
    )


@rule(aten.linear.default)
def linear(to: Lowering, node: fx.Node) -> Value:
    """A linear layer over the last axis of vectors or sequences."""
    if len(shape_of(node)) == 4:
        raise Unsupported("a linear layer over the last of four axes")
    bias = argument(node, 2, "bias")
    weight = to.constant(node.args[1])
    x = to.value(node.args[0], rows=True)
    return to.network.linear(x, weight, None if bias is None else to.constant(bias), name=to.named(node))


@rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm(to: Lowering, node: fx.Node) -> Value:
    """A batch norm that was not folded: it stays in torch."""
    raise Unsupported("it should have been folded")


def _window(to: Lowering, node: fx.Node) -> tuple[Value, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """What is pooled, and the window's size, stride and padding."""
    flat = over_length(node)
    kernel = on_two_axes(node.args[1], flat, 1)
    stride = on_two_axes(argument(node, 2, "stride") or node.args[1], flat, 1)
    return to.value(node.args[0], rows=False), kernel, stride, on_two_axes(argument(node, 3, "padding", 0), flat, 0)


@rule(aten.max_pool2d.default, aten.max_pool1d.default)
def max_pool(to: Lowering, node: fx.Node) -> Value:
    """A maximum over windows, its size rounded up or down as torch does."""
    if pair(argument(node, 4, "dilation", 1)) != (1, 1):
        raise Unsupported("a dilated pooling window")
    x, kernel, stride, padding = _window(to, node)
    return to.network.pool(x, "max", kernel, stride, padding, size=_image(node))


@rule(aten.avg_pool2d.default, aten.avg_pool1d.default)
def average_pool(to: Lowering, node: fx.Node) -> Value:
    """An average over windows of one size."""
    if argument(node, 4, "ceil_mode", False) or argument(node, 6, "divisor_override") is not None:
        raise Unsupported("an average over windows of unlike sizes")
    x, kernel, stride, padding = _window(to, node)
    exclude = not argument(node, 5, "count_include_pad", True)
    return to.network.pool(x, "average", kernel, stride, padding, exclude_pad=exclude)


def _image(node: fx.Node) -> tuple[int, int]:
    """Height and width of what a node gives; a length is one row."""
    high, wide = (1, *shape_of(node)[2:])[-2:]
    return high, wide


@rule(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool1d.default)
def adaptive_average_pool(to: Lowering, node: fx.Node) -> Value:
    """An average over windows that divide the image evenly."""
    over_length(node)
    x = to.value(node.args[0], rows=False)
    high, wide = _image(node)
    if (high, wide) == (1, 1):
        return to.network.mean(x)
    if (high, wide) == (x.height, x.width):
        return x
    if x.height % high or x.width % wide:
        raise Unsupported("an average over windows of unlike sizes")
    window = x.height // high, x.width // wide
    return to.network.pool(x, "average", window, window)


@rule(aten.mean.dim)
def mean(to: Lowering, node: fx.Node) -> Value:
    """A mean over all positions."""
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    if sorted(d % rank for d in node.args[1]) != list(range(2, rank)) or rank == 2:  # type: ignore[union-attr]
        raise Unsupported("a mean over other axes than all positions")
    return to.network.mean(to.value(node.args[0], rows=False))


@rule(attention)
def attend(to: Lowering, node: fx.Node) -> Value:
    """Attention over channels of one tensor, as `gather_attention` left it."""
    x, *rest = node.args
    three = len(shape_of(x)) == 3  # type: ignore[arg-type]
    return to.network.attention(to.value(x, rows=True if three else None), *rest)  # type: ignore[arg-type]
