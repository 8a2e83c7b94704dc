"""Layers of torch.nn that only call one function go straight to it: their forward takes as long as tracing the call."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from podar.graph.tracing.calls import Calls

Arguments = tuple[Any, ...]
Shortcut = tuple[Any, Callable[[Tensor], Arguments | None]]
"""What a layer calls, and its arguments for an input; None where its forward does more."""

LAYERS: dict[type[nn.Module], tuple[Any, Callable[[Any], Shortcut | None]]] = {}
"""By type its own forward (somebody may put another one in its place) and how to find the shortcut."""

BACKWARD = ("_backward_hooks", "_backward_pre_hooks")
"""Where a module keeps hooks that work on gradients."""

KINDS = (nn.Parameter, type(None))

plainly = torch._C.DisableTorchFunction  # pyright: ignore[reportPrivateUsage, reportAttributeAccessIssue]
"""Within this context torch's own functions do not come to `Calls`, just as while `Calls` handles one."""


def shortcut_of(kind: type[nn.Module]) -> Callable[..., Any]:
    """Register how to find what a layer of exactly this type calls."""

    def register(function: Any) -> Any:
        LAYERS[kind] = kind.forward, function
        return function

    return register


def shortcuts(calls: Calls) -> Callable[[str, nn.Module, Callable[..., Any]], Callable[..., Any]]:
    """What to call instead of a module in eval mode, given its name, the module and its own call."""
    hooked = torch_module._has_any_global_hook()  # pyright: ignore[reportPrivateUsage]
    known = {} if hooked else {kind: find for kind, (forward, find) in LAYERS.items() if kind.forward is forward}
    called = calls.called

    def around(_: str, module: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
        find = known.get(type(module))
        if find is None:
            return call
        own = module.__dict__
        if own["_forward_hooks"] or own["_forward_pre_hooks"] or any(map(own.get, BACKWARD)) or "forward" in own:
            return call
        found = find(module)
        if found is None:
            return call
        function, arguments = found
        kind = calls.known(function)

        def straight(*args: Any, **kwargs: Any) -> Any:
            if len(args) == 1 and not kwargs and type(args[0]) is Tensor:
                with plainly():
                    given = arguments(args[0])
                    if given is not None:
                        return called(function, kind, given, {})
            return call(*args, **kwargs)

        return straight

    return around


def _plain(parameters: dict[str, Any]) -> bool:
    """Whether weight and bias are plain parameters under their usual names (weight norm moves them)."""
    if "weight" not in parameters or "bias" not in parameters:
        return False
    return type(parameters["weight"]) in KINDS and type(parameters["bias"]) in KINDS


def _convolution(function: Any, dims: int) -> Any:
    def find(layer: Any) -> Shortcut | None:
        parameters = layer._parameters
        if layer.padding_mode != "zeros" or not _plain(parameters) or parameters["weight"] is None:
            return None

        def arguments(x: Tensor) -> Arguments | None:
            if x.dim() != dims:
                return None
            own = layer.__dict__
            weight, bias = parameters["weight"], parameters["bias"]
            return x, weight, bias, own["stride"], own["padding"], own["dilation"], own["groups"]

        return function, arguments

    return find


shortcut_of(nn.Conv1d)(_convolution(torch.conv1d, 3))
shortcut_of(nn.Conv2d)(_convolution(torch.conv2d, 4))
shortcut_of(nn.Conv3d)(_convolution(torch.conv3d, 5))


def _batch_norm(*dims: int) -> Any:
    def find(layer: Any) -> Shortcut | None:
        parameters, buffers = layer._parameters, layer._buffers
        if buffers.get("running_mean") is None or buffers.get("running_var") is None or not _plain(parameters):
            return None
        factor, eps = 0.0 if layer.momentum is None else layer.momentum, layer.eps

        def arguments(x: Tensor) -> Arguments | None:
            if x.dim() not in dims:
                return None
            weight, bias = parameters["weight"], parameters["bias"]
            mean, variance = buffers["running_mean"], buffers["running_var"]
            return x, weight, bias, mean, variance, False, factor, eps, torch.backends.cudnn.enabled

        return torch.batch_norm, arguments

    return find


shortcut_of(nn.BatchNorm1d)(_batch_norm(2, 3))
shortcut_of(nn.BatchNorm2d)(_batch_norm(4))
shortcut_of(nn.BatchNorm3d)(_batch_norm(5))


@shortcut_of(nn.Linear)
def linear(layer: Any) -> Shortcut | None:
    """A linear layer with plain parameters calls `linear`."""
    parameters = layer._parameters
    if not _plain(parameters) or parameters["weight"] is None:
        return None
    return nn.functional.linear, lambda x: (x, parameters["weight"], parameters["bias"])


@shortcut_of(nn.LayerNorm)
def layer_norm(layer: Any) -> Shortcut | None:
    """A layer norm with plain parameters calls `layer_norm`."""
    parameters, own = layer._parameters, layer.__dict__
    if not _plain(parameters):
        return None

    def arguments(x: Tensor) -> Arguments:
        weight, bias = parameters["weight"], parameters["bias"]
        return x, own["normalized_shape"], weight, bias, own["eps"], torch.backends.cudnn.enabled

    return torch.layer_norm, arguments


@shortcut_of(nn.AdaptiveAvgPool2d)
def adaptive_average(layer: Any) -> Shortcut | None:
    """An adaptive average pooling to a size that is given as a whole calls its function."""
    own, size = layer.__dict__, layer.output_size
    if not isinstance(size, int) and None in size:  # None keeps the size of the input
        return None
    return torch._C._nn.adaptive_avg_pool2d, lambda x: (x, own["output_size"])  # pyright: ignore


def _activation(function: Any, in_place: Any) -> Any:
    def find(layer: Any) -> Shortcut:
        return in_place if layer.inplace else function, _alone

    return find


def _alone(x: Tensor) -> Arguments:
    return (x,)


shortcut_of(nn.ReLU)(_activation(torch.relu, torch.relu_))


@shortcut_of(nn.Sigmoid)
def sigmoid(_: nn.Module) -> Shortcut:
    """A sigmoid layer calls `sigmoid`."""
    return torch.sigmoid, _alone


for _kind, _name in (
    (nn.SiLU, "silu"),
    (nn.ReLU6, "relu6"),
    (nn.Hardswish, "hardswish"),
    (nn.Hardsigmoid, "hardsigmoid"),
):
    shortcut_of(_kind)(_activation(getattr(torch._C._nn, _name), getattr(torch._C._nn, f"{_name}_")))  # pyright: ignore
