"""What stands where a residual block was: modules that pass their input on, or give zeros of its shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from podar.errors import PodarError
from podar.model.tensors import tensors_in


class Skipped(nn.Module):
    """Has no parameters. Gives its first tensor argument back, or zeros like it (`zeros`), in the form that the module
    it replaces had: a tensor, or a tuple of `items` whose other entries are None."""

    def __init__(self, zeros: bool, items: int = 0) -> None:
        super().__init__()
        self.zeros, self.items = zeros, items

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        x = tensors_in((*args, *kwargs.values()))[0]
        y = torch.zeros_like(x) if self.zeros else x
        return y if not self.items else (y, *[None] * (self.items - 1))

    def extra_repr(self) -> str:
        return "zeros" if self.zeros else "input"


def replace(model: nn.Module, name: str, module: nn.Module) -> nn.Module:
    """Put `module` at a path and return what stood there.

    **Raises:** `PodarError`: the model has no module of that name.
    """
    path, _, key = name.rpartition(".")
    try:
        parent = model.get_submodule(path)
        old = parent._modules[key]
    except (AttributeError, KeyError):
        old = None
    if old is None:
        raise PodarError(f"the plan skips {name!r}, which this model does not have; was it made for another model?")
    parent._modules[key] = module  # pyright: ignore[reportPossiblyUnboundVariable]
    return old
