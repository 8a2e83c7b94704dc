"""One short function per ONNX operator that the engine runs: it adds the operator to a `podar_native.Network`."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.engine.lowering import Unsupported
from podar.engine.onnx_graph import Opened
from podar.errors import require

if TYPE_CHECKING:
    from podar_native import Network, Value

Lower = Callable[["OnnxLowering", Any], "Value"]
RULES: dict[str, Lower] = {}


def rule(*names: str) -> Callable[[Lower], Lower]:
    """Register the function that lowers these operators."""

    def register(function: Lower) -> Lower:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


class OnnxLowering:
    """A network that grows from its outputs back to what is made outside of `inside`.

    - `graph`: the file; `inside`: the tensors that are made here.
    - Tensors of three axes are channels × length where they are among the graph's `planes`, else length × channels.
    """

    def __init__(self, graph: Opened, inside: Collection[str]) -> None:
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
            if node.op_type == "Split":
                self.values[name] = split(self, node, name)
            else:
                self.values[name] = RULES[node.op_type](self, node)
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


def reason_against(node: Any, graph: Opened, batch: int) -> str | None:
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


# --- the operators --------------------------------------------------------------------------------------------------


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
    return _product(to, node, None)


def _product(to: OnnxLowering, node: Any, bias: np.ndarray | None) -> Value:
    weight = to.constant(node.input[1])
    if weight.ndim != 2 or not (len(to.shape(node.input[0])) == 2 or to.is_rows(node.input[0])):
        raise Unsupported("a product over the last of several axes of images or sequences")
    return to.network.linear(to.value(node.input[0]), weight.T, bias, name=to.named(node))


@rule("BatchNormalization")
def batch_norm(to: OnnxLowering, node: Any) -> Value:
    scale, shift, mean, var = (to.constant(n).astype(np.float64) for n in node.input[1:5])
    scale = scale / np.sqrt(var + attributes(node).get("epsilon", 1e-5))
    weight = scale.reshape(-1, 1, 1, 1)
    return to.network.conv(
        _planar(to, node.input[0]), weight, shift - mean * scale, groups=len(scale), name=to.named(node)
    )


@rule("MaxPool", "AveragePool")
def pool(to: OnnxLowering, node: Any) -> Value:
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
    return to.network.mean(_planar(to, node.input[0]))


@rule("ReduceMean")
def mean(to: OnnxLowering, node: Any) -> Value:
    given = attributes(node)
    axes = given.get("axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        axes = to.constant(node.input[1]).tolist()
    rank = len(to.shape(node.input[0]))
    if axes is None or sorted(a % rank for a in axes) != list(range(2, rank)) or rank == 2:
        raise Unsupported("a mean over other axes than all positions")
    return to.network.mean(_planar(to, node.input[0]))


@rule("Add")
def add(to: OnnxLowering, node: Any) -> Value:
    for data, other in (tuple(node.input), tuple(node.input)[::-1]):
        maker = to.makers.get(data)
        if other in to.constants and data in to.inside and maker is not None and maker.op_type == "MatMul":
            bias = to.constants[other]
            if bias.shape == to.shape(data)[-1:]:
                return _product(to, maker, bias)
    x, y = (to.value(n) for n in _alike(to, node))
    return to.network.add(x, y)


@rule("Mul")
def mul(to: OnnxLowering, node: Any) -> Value:
    x, y = (to.value(n) for n in _alike(to, node))
    if x.shape != y.shape and y.height * y.width > 1:
        x, y = y, x
    return to.network.mul(x, y)


def _alike(to: OnnxLowering, node: Any) -> tuple[str, str]:
    if len(to.shape(node.input[0])) != len(to.shape(node.input[1])):
        raise Unsupported("operands have different numbers of axes")
    return node.input[0], node.input[1]


@rule("Concat")
def concat(to: OnnxLowering, node: Any) -> Value:
    rank = len(to.shape(node.output[0]))
    if attributes(node)["axis"] % rank != 1 or to.is_rows(node.output[0]):
        raise Unsupported("a concatenation along another axis than the channels")
    return to.network.concat([to.value(n) for n in node.input])


@rule("Split")
def split_rule(to: OnnxLowering, node: Any) -> Value:
    return split(to, node, node.output[0])


def split(to: OnnxLowering, node: Any, name: str) -> Value:
    """One part of a split: a view."""
    rank = len(to.shape(node.input[0]))
    if attributes(node).get("axis", 0) % rank != 1 or to.is_rows(node.input[0]):
        raise Unsupported("a split along another axis than the channels")
    x = to.value(node.input[0])
    first = sum(to.shape(n)[1] for n in list(node.output)[: list(node.output).index(name)])
    return to.network.channels(x, first, first + to.shape(name)[1])


@rule("Slice")
def channels(to: OnnxLowering, node: Any) -> Value:
    before, after = to.shape(node.input[0]), to.shape(node.output[0])
    starts = to.constant(node.input[1]).tolist()
    axes = to.constant(node.input[3]).tolist() if len(node.input) > 3 and node.input[3] else list(range(len(starts)))
    steps = to.constant(node.input[4]).tolist() if len(node.input) > 4 and node.input[4] else [1] * len(starts)
    if to.is_rows(node.input[0]) or any(s != 1 for s in steps) or before[:1] + before[2:] != after[:1] + after[2:]:
        raise Unsupported("a slice along another axis than the channels")
    first = 0
    for start, axis in zip(starts, axes):
        if axis % len(before) == 1:
            first = min(start + before[1] if start < 0 else start, before[1])
    return to.network.channels(to.value(node.input[0]), max(first, 0), max(first, 0) + after[1])


@rule("Resize")
def resize(to: OnnxLowering, node: Any) -> Value:
    given = attributes(node)
    before, after = to.shape(node.input[0]), to.shape(node.output[0])
    if len(before) != 4 or given.get("mode", b"nearest") != b"nearest":
        raise Unsupported("an enlargement that blends neighbours")
    if after[2] % before[2] or after[3] % before[3] or before[:2] != after[:2]:
        raise Unsupported("an enlargement by no whole factor")
    # Whole factors with these settings repeat every pixel.
    places = given.get("coordinate_transformation_mode", b"half_pixel")
    rounding = given.get("nearest_mode", b"round_prefer_floor")
    if (places, rounding) != (b"asymmetric", b"floor") and not (
        places == b"half_pixel" and rounding.startswith(b"round")
    ):
        raise Unsupported("an enlargement that shifts pixels")
    return to.network.upsample(to.value(node.input[0]), (after[2] // before[2], after[3] // before[3]))


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def view(to: OnnxLowering, node: Any) -> Value:
    before, after = to.shape(node.input[0]), to.shape(node.output[0])
    if before == after:
        return to.value(node.input[0])
    if to.is_rows(node.input[0]) or to.is_rows(node.output[0]):
        raise Unsupported("a view of a sequence")
    # Only what keeps one number a channel, [N, C, 1, 1] and [N, C], or a sequence: [N, C, 1, L] and [N, C, L].
    one_each = int(np.prod(before[2:])) == 1 and int(np.prod(after[2:])) == 1
    a_sequence = before[2:] in ((1, *after[2:]), after[3:]) and (before[2:3] == (1,) or after[2:3] == (1,))
    if before[:2] != after[:2] or not (one_each or a_sequence):
        raise Unsupported("a view that mixes channels and positions")
    return to.value(node.input[0])


@rule("Identity", "Dropout")
def same(to: OnnxLowering, node: Any) -> Value:
    return to.value(node.input[0])


def _activate(to: OnnxLowering, node: Any, name: str, *numbers: float) -> Value:
    return to.network.activate(to.value(node.input[0]), to.native.Activation(name, *numbers))


@rule("Relu", "Sigmoid", "Tanh", "HardSwish")
def plain(to: OnnxLowering, node: Any) -> Value:
    return _activate(to, node, node.op_type.lower())


@rule("LeakyRelu")
def leaky_relu(to: OnnxLowering, node: Any) -> Value:
    return _activate(to, node, "leaky_relu", float(attributes(node).get("alpha", 0.01)))


@rule("HardSigmoid")
def hard_sigmoid(to: OnnxLowering, node: Any) -> Value:
    given = attributes(node)
    if abs(given.get("alpha", 0.2) - 1 / 6) > 1e-6 or given.get("beta", 0.5) != 0.5:
        raise Unsupported("a hard sigmoid of another slope than a sixth")
    return _activate(to, node, "hardsigmoid")


@rule("QuickGelu", "Swish")
def silu(to: OnnxLowering, node: Any) -> Value:
    if attributes(node).get("alpha", 1.702 if node.op_type == "QuickGelu" else 1.0) != 1.0:
        raise Unsupported("x · sigmoid(a · x) with another a than one")
    return _activate(to, node, "silu")


@rule("Gelu")
def gelu(to: OnnxLowering, node: Any) -> Value:
    return _activate(to, node, "gelu_tanh" if attributes(node).get("approximate") == b"tanh" else "gelu")


@rule("Clip")
def clip(to: OnnxLowering, node: Any) -> Value:
    given = attributes(node)
    low, high = given.get("min", -float("inf")), given.get("max", float("inf"))
    if len(node.input) > 1 and node.input[1]:
        low = float(to.constant(node.input[1]))
    if len(node.input) > 2 and node.input[2]:
        high = float(to.constant(node.input[2]))
    return _activate(to, node, "clamp", low, high)
