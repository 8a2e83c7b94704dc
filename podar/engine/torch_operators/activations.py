"""Elementwise functions of one tensor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from podar.engine.lowering import Lowering, Unsupported, argument, rule

if TYPE_CHECKING:
    from podar_native import Value

aten = torch.ops.aten


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
    """GELU, exact or by tanh."""
    name = "gelu_tanh" if node.kwargs.get("approximate") == "tanh" else "gelu"
    return to.network.activate(to.value(node.args[0]), to.native.Activation(name))
