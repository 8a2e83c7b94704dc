"""Example inputs and outputs: a tensor, a tuple, a dict of keyword arguments, or a callable that runs the model."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ExampleInputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Callable[[nn.Module], Any]


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Example inputs as positional and keyword arguments; None for what is no tensor, tuple or dict (a callable)."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else None


def call(model: nn.Module, inputs: ExampleInputs) -> Any:
    """Run the model on example inputs."""
    given = arguments(inputs)
    if given is not None:
        return model(*given[0], **given[1])
    if callable(inputs):
        return inputs(model)
    raise TypeError(
        f"example_inputs is a {type(inputs).__name__}; give a tensor, a tuple of arguments, "
        "a dict of keyword arguments, or a callable that takes the model and runs it"
    )


def example_tensors(inputs: ExampleInputs) -> list[Tensor]:
    """The tensors among the example inputs (none are known of a callable)."""
    return [t for _, t in named_tensors(inputs)]


def named_tensors(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested lists, tuples, mappings and dataclasses, with its path ("0", "logits", "aux.1")."""
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    else:
        return
    for key, item in items:
        yield from named_tensors(item, f"{path}.{key}" if path else str(key))


def to_device(inputs: ExampleInputs, device: torch.device) -> ExampleInputs:
    """The same inputs on another device."""
    if isinstance(inputs, Tensor):
        return inputs.to(device)
    if isinstance(inputs, Mapping):
        return {k: to_device(v, device) if isinstance(v, Tensor) else v for k, v in inputs.items()}
    if isinstance(inputs, (tuple, list)):
        return tuple(to_device(v, device) if isinstance(v, Tensor) else v for v in inputs)
    return inputs
