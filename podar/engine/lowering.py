"""Nodes of an exported graph put into a `podar_native.Network`; torch_operators/ has the rule of each operator."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, fx

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
