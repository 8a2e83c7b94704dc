"""Takes off what training and compiling put around a model: DataParallel, torch.compile, moving averages."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# By class, where the model itself lies. Names, not types: asking for the types would import half of torch.
_INSIDE = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",  # what torch.compile returns
    "ModelEma": "module",  # timm's moving averages
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "_FabricModule": "_original_module",  # Lightning Fabric's
}


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, under any number of wrappers; a model without one is given back as it is.

    ```python
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> unwrapped(torch.nn.DataParallel(layer)) is layer
    True

    ```
    """
    while (key := inside(model)) is not None:
        model = model._modules[key]  # pyright: ignore[reportAssignmentType]
    return model


def inside(module: nn.Module) -> str | None:
    """Under which name a wrapper holds what it wraps; None where a module is no wrapper."""
    for kind in type(module).__mro__:
        key = _INSIDE.get(kind.__name__)
        if key is not None and module._modules.get(key) is not None:
            return key
    return None


def plain_name(model: nn.Module, name: str) -> str:
    """The name of a parameter, buffer or module as it would be without any wrapper around the model or inside it.

    ```python
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.DataParallel(torch.nn.Linear(2, 2)))
    >>> plain_name(model, "0.module.weight")
    '0.weight'

    ```
    """
    return ".".join(_plain_parts(model, name))


def is_of_wrapper(model: nn.Module, name: str) -> bool:
    """Whether a tensor is a wrapper's own, such as how often a moving average was updated."""
    module = model
    for part in name.split("."):
        key = inside(module)
        if key is not None and part != key:
            return True
        found = dict(module.named_children()).get(part)
        if found is None:
            return False
        module = found
    return False


def _plain_parts(model: nn.Module, name: str) -> Iterator[str]:
    module: nn.Module | None = model
    for part in name.split("."):
        if module is None or inside(module) != part:
            yield part
        module = None if module is None else dict(module.named_children()).get(part)
