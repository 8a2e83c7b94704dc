"""Puts back after a run the train or eval mode of every part of a model, and the layout of its tensors."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor, nn


@contextlib.contextmanager
def modes_put_back(model: nn.Module) -> Iterator[None]:
    """The modes of a model's parts may be changed within this context: afterwards each part has its own mode again."""
    modes = {part: part.training for part in model.modules()}
    try:
        yield
    finally:
        # train() first: some models override it to drop what they cached in eval mode.
        with contextlib.suppress(NotImplementedError):  # an exported program: its mode was fixed when it was exported
            model.train(modes[model])
        for part, mode in modes.items():
            part.training = mode


@contextlib.contextmanager
def layout_put_back(model: nn.Module) -> Iterator[None]:
    """The memory layout of a model's tensors may be changed within this context: afterwards they have their own again.

    The same numbers in another layout are summed in another order, so a model would compute other last digits than the
    one that is loaded from its file.
    """
    strides = {name: t.stride() for name, t in _tensors(model).items()}
    try:
        yield
    finally:
        for name, tensor in _tensors(model).items():
            stride = strides.get(name)
            if stride is not None and len(stride) == tensor.dim() and stride != tensor.stride():
                tensor.data = tensor.data.new_empty_strided(tensor.shape, stride).copy_(tensor.data)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
