"""The tensors in nested containers, found and replaced by the one walk of `podar.model.containers`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from podar.model.containers import leaves, replaced


def named_tensors(value: Any, *, fields: bool = False) -> Iterator[tuple[str, Tensor]]:
    """Every tensor in nested lists, tuples, mappings and dataclasses, with its path ("0", "logits", "aux.1").

    `fields`: the items of a named tuple are called by their fields ("logits"), not by their places ("0").
    """
    for place, leaf in leaves(value, fields=fields):
        if isinstance(leaf, Tensor):
            yield ".".join(map(str, place)), leaf


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of a nested container, in order."""
    return [leaf for _, leaf in leaves(value) if isinstance(leaf, Tensor)]


def map_tensors(function: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same nested container with `function(tensor)` in place of each tensor; whatever else it holds stays."""
    return replaced(lambda _, leaf: function(leaf) if isinstance(leaf, Tensor) else leaf, value)


def to_device(value: Any, device: torch.device) -> Any:
    """The same container on a device. Objects that can move themselves (a packed sequence, a graph) are moved, too."""
    if not isinstance(value, Tensor) and not isinstance(value, Mapping) and callable(getattr(value, "to", None)):
        return value.to(device)
    if isinstance(value, (list, tuple)) and not hasattr(value, "_fields"):
        return type(value)(to_device(item, device) for item in value)
    return map_tensors(lambda tensor: tensor.to(device), value)
