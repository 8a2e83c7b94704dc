"""Layers: convolutions, products with stored weights, poolings and means."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from podar.engine.lowering import Unsupported
from podar.engine.onnx_lowering import OnnxLowering, attributes, rule

if TYPE_CHECKING:
    from podar_native import Value


def _pads(
    given: dict[str, Any], size: int, kernel: list[int], stride: list[int], dilation: list[int], image: Any
) -> Any:
    """Rows and columns added on each side: ONNX says begins, then ends."""
    how = given.get("auto_pad", b"NOTSET").decode()
    pads = list(given.get("pads", [0] * 2 * size))
    if how == "VALID":
        pads = [0] * 2 * size
    elif how.startswith("SAME"):
        total = [
            max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n) for n, k, s, d in zip(image, kernel, stride, dilation)
        ]
        less = [t // 2 for t in total]
        more = [t - t // 2 for t in total]
        pads = [*less, *more] if how == "SAME_UPPER" else [*more, *less]
    if pads[:size] != pads[size:]:
        raise Unsupported("it pads one side more than the other")
    return pads[:size]


def _planar(to: OnnxLowering, name: str) -> Value:
    if len(to.shape(name)) != 4 and name not in to.planes:
        raise Unsupported("it works on no images")
    return to.value(name)


def _two(numbers: Any, first: int) -> tuple[int, int]:
    """Sizes on two axes; where there is one, `first` stands for the height's."""
    return (first, int(numbers[0])) if len(numbers) == 1 else (int(numbers[0]), int(numbers[1]))


@rule("Conv")
def conv(to: OnnxLowering, node: Any) -> Value:
    """A convolution over an image or a length."""
    weight = to.constant(node.input[1])
    if weight.ndim not in (3, 4):
        raise Unsupported("a convolution over three axes")
    given = attributes(node)
    kernel = list(weight.shape[2:])
    ones = [1] * len(kernel)
    stride, dilation = list(given.get("strides", ones)), list(given.get("dilations", ones))
    padding = _pads(given, len(kernel), kernel, stride, dilation, to.shape(node.input[0])[2:])
    bias = to.constant(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    return to.network.conv(
        _planar(to, node.input[0]), weight.reshape(*weight.shape[:2], *_two(kernel, 1)), bias, stride=_two(stride, 1),
        padding=_two(padding, 0), dilation=_two(dilation, 1), groups=int(given.get("group", 1)), name=to.named(node),
    )  # fmt: skip


@rule("Gemm")
def gemm(to: OnnxLowering, node: Any) -> Value:
    """A product with a stored matrix, and a bias."""
    given = attributes(node)
    if given.get("alpha", 1.0) != 1.0 or given.get("beta", 1.0) != 1.0 or given.get("transA", 0):
        raise Unsupported("a product with factors or a transposed input")
    weight = to.constant(node.input[1])
    weight = weight if given.get("transB", 0) else weight.T
    bias = to.constant(node.input[2]).reshape(-1) if len(node.input) > 2 and node.input[2] else None
    if bias is not None and len(bias) != len(weight):
        raise Unsupported("a bias of another size than the outputs")
    return to.network.linear(to.value(node.input[0]), weight, bias, name=to.named(node))


@rule("MatMul")
def matmul(to: OnnxLowering, node: Any) -> Value:
    """A product with a stored matrix."""
    return product(to, node, None)


def product(to: OnnxLowering, node: Any, bias: np.ndarray | None) -> Value:
    """A product with a stored weight, and the bias that is added to it."""
    weight = to.constant(node.input[1])
    if weight.ndim != 2 or not (len(to.shape(node.input[0])) == 2 or to.is_rows(node.input[0])):
        raise Unsupported("a product over the last of several axes of images or sequences")
    return to.network.linear(to.value(node.input[0]), weight.T, bias, name=to.named(node))


@rule("BatchNormalization")
def batch_norm(to: OnnxLowering, node: Any) -> Value:
    """A batch norm by itself: a depthwise convolution of one number a channel."""
    scale, shift, mean, var = (to.constant(n).astype(np.float64) for n in node.input[1:5])
    scale = scale / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
    weight = scale.reshape(-1, 1, 1, 1)
    return to.network.conv(
        _planar(to, node.input[0]), weight, shift - mean * scale, groups=len(scale), name=to.named(node)
    )


@rule("MaxPool", "AveragePool")
def pool(to: OnnxLowering, node: Any) -> Value:
    """A maximum or an average over windows."""
    given = attributes(node)
    if len(node.output) > 1 and any(node.output[1:]):
        raise Unsupported("a pooling that gives its places back")
    x = _planar(to, node.input[0])
    kernel = list(given["kernel_shape"])
    stride = list(given.get("strides", [1] * len(kernel)))
    if any(d != 1 for d in given.get("dilations", [1, 1])):
        raise Unsupported("a dilated pooling window")
    image = to.shape(node.input[0])[2:]
    padding = _two(_pads(given, len(kernel), kernel, stride, [1] * len(kernel), image), 0)
    window, steps = _two(kernel, 1), _two(stride, 1)
    if node.op_type == "MaxPool":
        return to.network.pool(x, "max", window, steps, padding, size=_two(to.shape(node.output[0])[2:], 1))
    if given.get("ceil_mode", 0):
        raise Unsupported("an average over windows of unlike sizes")
    exclude = not given.get("count_include_pad", 0)
    return to.network.pool(x, "average", window, steps, padding, exclude_pad=exclude)


@rule("GlobalAveragePool")
def global_average(to: OnnxLowering, node: Any) -> Value:
    """A mean over all positions."""
    return to.network.mean(_planar(to, node.input[0]))


@rule("ReduceMean")
def mean(to: OnnxLowering, node: Any) -> Value:
    """A mean over all positions."""
    given = attributes(node)
    axes = given.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = to.constant(node.input[1]).tolist()
    rank = len(to.shape(node.input[0]))
    if axes is None or sorted(a % rank for a in axes) != list(range(2, rank)) or rank == 2:
        raise Unsupported("a mean over other axes than all positions")
    return to.network.mean(_planar(to, node.input[0]))
