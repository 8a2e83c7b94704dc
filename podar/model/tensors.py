"""Nested containers of tensors: the one walk through lists, tuples, mappings and dataclasses, and a copy of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor


def named_tensors(value: Any, path: str = "", *, fields: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested lists, tuples, mappings and dataclasses, with its path ("0", "logits", "aux.1").

    `fields`: the items of a named tuple are called by their fields ("logits"), not by their places ("0").
    """
    if isinstance(value, Tensor):
        yield path, value
        return
    if isinstance(value, Mapping):
        items: Any = value.items()
    elif isinstance(value, (list, tuple)):
        items = zip(_names(value), value) if fields else enumerate(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value))
    else:
        return
    for key, item in items:
        yield from named_tensors(item, f"{path}.{key}" if path else str(key), fields=fields)


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a nested container, in order."""
    return [tensor for _, tensor in named_tensors(value)]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nested container with `function(tensor)` in place of each tensor; whatever else it holds stays."""
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, Mapping):
        return {key: map_tensors(function, item) for key, item in value.items()}
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(function, item) for item in value))
    if isinstance(value, (list, tuple)):
        return type(value)(map_tensors(function, item) for item in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        given = {f.name: map_tensors(function, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
        return dataclasses.replace(value, **given)
    return value


def to_device(value: Any, device: torch.device) -> Any:
    """The same container on a device; what is no container, and can move itself (a packed sequence, a graph), does."""
    if not isinstance(value, Tensor) and not isinstance(value, Mapping) and callable(getattr(value, "to", None)):
        return value.to(device)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(to_device(item, device) for item in value)
    return map_tensors(lambda tensor: tensor.to(device), value)


def _names(value: list[Any] | tuple[Any, ...]) -> Any:
    """Of a named tuple its fields, of other sequences the places."""
    return getattr(value, "_fields", range(len(value)))
