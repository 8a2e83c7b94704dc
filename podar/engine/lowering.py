"""One short function per torch operator that the engine runs: it adds the operator to a `podar_native.Network`."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

from podar.engine.attention import attention
from podar.errors import require

if TYPE_CHECKING:
    from podar_native import Network, Value

aten = torch.ops.aten
Lower = Callable[["Lowering", fx.Node], "Value"]
RULES: dict[Any, Lower] = {}


# These take three axes as channels × length; all others take them as length × channels.
_OVER_LENGTH = (
    aten.conv1d.default, aten.conv1d.padding, aten.max_pool1d.default, aten.avg_pool1d.default,
    aten.adaptive_avg_pool1d.default,
)  # fmt: skip


class Unsupported(Exception):
    """The engine does not run this operator with these settings; the message says why."""


def rule(*targets: Any) -> Callable[[Lower], Lower]:
    """Register the function that lowers these operators."""

    def register(function: Lower) -> Lower:
        RULES.update(dict.fromkeys(targets, function))
        return function

    return register


class Lowering:
    """A network that grows node by node. Values of three axes are channels × length, or `rows`: length × channels."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.native = require("podar_native", extra="sparse")
        self.network: Network = self.native.Network()
        self.module = module
        self.values: dict[fx.Node, Value] = {}
        self.rows: dict[fx.Node, bool] = {}
        self.outside: list[fx.Node] = []  # inputs, in the network's order

    def value(self, node: Any, *, rows: bool | None = None) -> Value:
        """The value of a node; one that is made outside becomes an input. `rows`: how three axes must lie."""
        if not isinstance(node, fx.Node) or node.op == "get_attr" or "val" not in node.meta:
            raise Unsupported("an operand is a constant")
        if node not in self.values:
            shape = shape_of(node)
            as_rows = len(shape) == 3 and rows is not False and (rows or not _planes_by_nature(node))
            self.values[node] = self.network.input(shape[1:], node.name, rows=as_rows)
            self.rows[node] = as_rows
            self.outside.append(node)
        if rows is not None and len(shape_of(node)) == 3 and self.rows[node] != rows:
            raise Unsupported("three axes are channels × length in one place and length × channels in another")
        return self.values[node]

    def operand(self, node: Any, beside: fx.Node) -> Value:
        """A value, or a stored tensor as a constant that fits the value of `beside`."""
        if not isinstance(node, fx.Node) or node.op != "get_attr":
            return self.value(node, rows=self.rows.get(beside) if len(shape_of(beside)) == 3 else None)
        numbers = constant_of(self.module, node).numpy()
        wide, rank = shape_of(beside), len(shape_of(beside))
        if numbers.ndim > rank or (numbers.ndim == rank and numbers.shape[0] != 1):
            raise Unsupported("an operand is a constant of another shape")
        numbers = numbers.reshape(*[1] * (rank - numbers.ndim), *numbers.shape)[0]
        if self.rows.get(beside) and rank == 3:
            numbers, wide = numbers.T, (wide[0], wide[2], wide[1])
        numbers = numbers.reshape(numbers.shape[0], *[1] * (3 - numbers.ndim), *numbers.shape[1:])
        like = self.values[beside].shape
        if any(n not in (1, m) for n, m in zip(numbers.shape, like)):
            raise Unsupported("an operand is a constant of another shape")
        return self.network.constant(numbers)

    def named(self, node: fx.Node) -> str:
        """What a layer is called: its module's path, or the node's name where another layer bears that."""
        stack = list((node.meta.get("nn_module_stack") or {}).values())
        path = stack[-1][0] if stack else ""
        return path if path and all(layer.name != path for layer in self.network.nodes) else node.name

    def constant(self, node: Any) -> np.ndarray:
        """A parameter's or buffer's numbers."""
        return constant_of(self.module, node).numpy()

    def add(self, node: fx.Node) -> None:
        """Lower one node.

        **Raises:** `Unsupported`.
        """
        if node.target not in RULES:
            raise Unsupported("the engine has no such operator")
        try:
            value = RULES[node.target](self, node)
        except ValueError as error:
            raise Unsupported(str(error).rstrip(".")) from error
        self.values[node] = value
        kept = [a for a in node.all_input_nodes if a in self.rows]
        self.rows.setdefault(node, bool(kept) and self.rows[kept[0]])

    def finish(self, node: fx.Node) -> None:
        """Give a node's value back."""
        self.network.output(self.values[node], shape_of(node)[1:], node.name, rows=self.rows[node])


def reason_against(module: fx.GraphModule, node: fx.Node, batch: int) -> str | None:
    """Why the engine cannot run this node; None where it can."""
    if node.op != "call_function":
        return "it is no operator"
    if node.target not in RULES:
        return "the engine has no such operator"
    tensors = [a for a in node.all_input_nodes if a.op != "get_attr"]
    for n in (node, *tensors):
        val = n.meta.get("val")
        if not isinstance(val, Tensor):
            return "it does not work on one tensor"
        if val.dtype != torch.float32:
            return f"it works on {str(val.dtype).removeprefix('torch.')}"
        if any(not isinstance(size, int) for size in val.shape):
            return "its sizes are open"
        if not 2 <= val.ndim <= 4 or val.shape[0] != batch or 0 in val.shape:
            return f"its tensors are no batch of {batch} images, sequences or vectors"
    try:
        Lowering(module).add(node)
    except Unsupported as error:
        return str(error)
    return None


def shape_of(node: fx.Node) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def constant_of(module: fx.GraphModule, node: Any) -> Tensor:
    """The tensor behind a get_attr node.

    **Raises:** `Unsupported` for another node, or one that is no float tensor.
    """
    if not isinstance(node, fx.Node) or node.op != "get_attr":
        raise Unsupported("its weight is computed, not stored")
    tensor = operator.attrgetter(str(node.target))(module)
    if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
        raise Unsupported("its weight is no float tensor")
    return tensor.detach().float().cpu()


def _planes_by_nature(node: fx.Node) -> bool:
    return any(user.target in _OVER_LENGTH for user in node.users)


def argument(node: fx.Node, index: int, name: str, default: Any = None) -> Any:
    """A positional or named argument."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def pair(value: Any) -> tuple[int, int]:
    """One or two sizes as two."""
    items = [value, value] if isinstance(value, int) else list(value)
    items = items * 2 if len(items) == 1 else items
    if len(items) != 2 or any(not isinstance(i, int) for i in items):
        raise Unsupported("its sizes are not whole numbers on two axes")
    return items[0], items[1]


def on_two_axes(value: Any, flat: bool, first: int) -> tuple[int, int]:
    """Sizes as two; of an operator over a length (`flat`), `first` stands for the height's."""
    return (first, pair(value)[1]) if flat else pair(value)


def over_length(node: fx.Node) -> bool:
    """Whether a convolution or pooling works on a length; else it works on an image.

    **Raises:** `Unsupported` where there is no batch axis.
    """
    flat = node.target in _OVER_LENGTH
    if len(shape_of(node)) != (3 if flat else 4):
        raise Unsupported("it works on one image or sequence without a batch axis")
    return flat


# --- the operators --------------------------------------------------------------------------------------------------


@rule(aten.conv2d.default, aten.conv2d.padding, aten.conv1d.default, aten.conv1d.padding)
def conv(to: Lowering, node: fx.Node) -> Value:
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
    if len(shape_of(node)) == 4:
        raise Unsupported("a linear layer over the last of four axes")
    bias = argument(node, 2, "bias")
    weight = to.constant(node.args[1])
    x = to.value(node.args[0], rows=True)
    return to.network.linear(x, weight, None if bias is None else to.constant(bias), name=to.named(node))


@rule(aten._native_batch_norm_legit_no_training.default)
def batch_norm(to: Lowering, node: fx.Node) -> Value:
    raise Unsupported("it should have been folded")


def _window(to: Lowering, node: fx.Node) -> tuple[Value, tuple[int, int], tuple[int, int], tuple[int, int]]:
    """What is pooled, and the window's size, stride and padding."""
    flat = over_length(node)
    kernel = on_two_axes(node.args[1], flat, 1)
    stride = on_two_axes(argument(node, 2, "stride") or node.args[1], flat, 1)
    return to.value(node.args[0], rows=False), kernel, stride, on_two_axes(argument(node, 3, "padding", 0), flat, 0)


@rule(aten.max_pool2d.default, aten.max_pool1d.default)
def max_pool(to: Lowering, node: fx.Node) -> Value:
    if pair(argument(node, 4, "dilation", 1)) != (1, 1):
        raise Unsupported("a dilated pooling window")
    x, kernel, stride, padding = _window(to, node)
    return to.network.pool(x, "max", kernel, stride, padding, size=_image(node))


@rule(aten.avg_pool2d.default, aten.avg_pool1d.default)
def average_pool(to: Lowering, node: fx.Node) -> Value:
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
    rank = len(shape_of(node.args[0]))  # type: ignore[arg-type]
    if sorted(d % rank for d in node.args[1]) != list(range(2, rank)) or rank == 2:  # type: ignore[union-attr]
        raise Unsupported("a mean over other axes than all positions")
    return to.network.mean(to.value(node.args[0], rows=False))


@rule(aten.add.Tensor, aten.sub.Tensor)
def add(to: Lowering, node: fx.Node) -> Value:
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


@rule(attention)
def attend(to: Lowering, node: fx.Node) -> Value:
    x, *rest = node.args
    three = len(shape_of(x)) == 3  # type: ignore[arg-type]
    return to.network.attention(to.value(x, rows=True if three else None), *rest)  # type: ignore[arg-type]


@rule(aten.cat.default)
def cat(to: Lowering, node: fx.Node) -> Value:
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
    if argument(node, 1, "dim", 0) != 1 or argument(node, 4, "step", 1) != 1:
        raise Unsupported("a slice along another axis than the channels")
    x = to.value(node.args[0], rows=False if len(shape_of(node)) == 3 else None)
    first = argument(node, 2, "start") or 0
    first = max(0, first + x.channels) if first < 0 else first
    return to.network.channels(x, first, first + shape_of(node)[1])


@rule(aten.upsample_nearest2d.vec, aten.upsample_nearest2d.default)
def upsample(to: Lowering, node: fx.Node) -> Value:
    x = to.value(node.args[0])
    high, wide = shape_of(node)[-2:]
    if high % x.height or wide % x.width:
        raise Unsupported("an enlargement by no whole factor")
    return to.network.upsample(x, (high // x.height, wide // x.width))


@rule(aten.view.default, aten.reshape.default, aten.flatten.using_ints, aten.squeeze.dims, aten._unsafe_view.default)
def view(to: Lowering, node: fx.Node) -> Value:
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
    if node.target is aten.dropout.default and node.args[2]:
        raise Unsupported("a dropout that is switched on")
    return to.value(node.args[0])


def _activation(name: str, *targets: Any, settings: Callable[[fx.Node], Sequence[float]] | None = None) -> None:
    @rule(*targets)
    def activation(to: Lowering, node: fx.Node) -> Value:
        numbers = settings(node) if settings else ()
        if any(not isinstance(n, (int, float)) for n in numbers):
            raise Unsupported("a bound is no number")
        return to.network.activate(to.value(node.args[0]), to.native.Activation(name, *map(float, numbers)))


def _bounds(node: fx.Node) -> tuple[float, float]:
    low, high = argument(node, 1, "min"), argument(node, 2, "max")
    return -float("inf") if low is None else low, float("inf") if high is None else high


_activation("relu", aten.relu.default)
_activation("silu", aten.silu.default)
_activation("sigmoid", aten.sigmoid.default)
_activation("tanh", aten.tanh.default)
_activation("hardswish", aten.hardswish.default)
_activation("hardsigmoid", aten.hardsigmoid.default)
_activation("leaky_relu", aten.leaky_relu.default, settings=lambda n: (argument(n, 1, "negative_slope", 0.01),))
_activation(
    "clamp",
    aten.hardtanh.default,
    settings=lambda n: (argument(n, 1, "min_val", -1.0), argument(n, 2, "max_val", 1.0)),
)
_activation("clamp", aten.clamp.default, settings=_bounds)
_activation("clamp", aten.relu6.default, settings=lambda n: (0.0, 6.0))


@rule(aten.gelu.default)
def gelu(to: Lowering, node: fx.Node) -> Value:
    name = "gelu_tanh" if node.kwargs.get("approximate") == "tanh" else "gelu"
    return to.network.activate(to.value(node.args[0]), to.native.Activation(name))
