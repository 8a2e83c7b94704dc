"""Puts back what a model remembers of its runs: buffers, attributes, and the containers in them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

MODULE = frozenset({"_parameters", "_buffers", "_modules", "training"})
"""Attributes that every module has, beside those of its own class."""


@contextmanager
def state_put_back(model: nn.Module) -> Iterator[set[int]]:
    """Forward passes within this context may write into the model (a cache, a counter): afterwards it is as it was.

    Yields the ids of tensors whose new values stay: whoever changes a buffer on purpose adds it.
    """
    before = [(module, *_seen(module)) for module in model.modules()]
    meant: set[int] = set()
    try:
        yield meant
    finally:
        for module, own, contents, buffers in before:
            _put_back(module, own, contents)
            for name, (tensor, value) in buffers.items():
                module._buffers[name] = tensor
                if id(tensor) not in meant and not _same(tensor, value):
                    tensor.data.copy_(value)


def _seen(module: nn.Module) -> tuple[dict[str, Any], dict[str, Any], dict[str, tuple[Tensor, Tensor]]]:
    """The attributes of a module, copies of the containers among them, and its buffers with their values."""
    own = {name: value for name, value in vars(module).items() if name not in MODULE}
    contents = {name: value.copy() for name, value in own.items() if type(value) in (list, dict, set)}
    buffers = {n: (t, t.detach().clone()) for n, t in module._buffers.items() if t is not None}
    return own, contents, buffers


def _put_back(module: nn.Module, own: dict[str, Any], contents: dict[str, Any]) -> None:
    held = vars(module)
    for name in [n for n in held if n not in MODULE and n not in own]:
        del held[name]
    held.update(own)
    for name, content in contents.items():
        container = own[name]
        if type(container) is list:
            container[:] = content
        else:
            container.clear()
            container.update(content)


def _same(tensor: Tensor, value: Tensor) -> bool:
    return tensor.shape == value.shape and torch.equal(tensor, value)
