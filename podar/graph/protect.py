"""Leaves a model exactly as it was: attributes, containers, buffers, modes, hooks and the random state."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from collections.abc import Generator, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch._utils import (
    _flatten_dense_tensors,  # pyright: ignore[reportPrivateUsage]
    _unflatten_dense_tensors,  # pyright: ignore[reportPrivateUsage]
)

from podar.graph.members import EVERY, Members

CONTAINERS = frozenset((dict, list, set))
HELD = [key for key, value in nn.Module().__dict__.items() if type(value) in CONTAINERS]
"""Containers that every module has: its parameters, buffers and children."""


@contextlib.contextmanager
def protected(members: Members, *, train: bool = False) -> Generator[None]:
    """Set every module to eval (or train) mode, and restore everything that a forward pass may have changed.

    Modes are set on the modules directly: `model.eval()` can be overridden, with side effects of its own.
    Buffers are copied (they are small); parameters are not, since a forward pass does not write to them.
    """
    saved: list[tuple[nn.Module, dict[str, Any]]] = []
    contents: list[tuple[Any, Any]] = []
    for _, module in members.once:
        attributes = module.__dict__
        saved.append((module, attributes))
        object.__setattr__(module, "__dict__", changing := attributes.copy())  # its own stays untouched
        changing["training"] = train
        for key in HELD:
            if held := attributes[key]:
                changing[key] = held.copy()
        for key in attributes.keys() - EVERY:
            if type(attributes[key]) in CONTAINERS:  # others may hold the same one
                contents.append((attributes[key], attributes[key].copy()))
    buffers = _snapshots(members.buffers.values())
    random = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(random)
        for module, attributes in saved:
            object.__setattr__(module, "__dict__", attributes)
        for container, before in contents:
            _restore(container, before)
        for group, before in buffers:
            _put_back(group, before)


def _snapshots(buffers: Iterable[Tensor]) -> list[tuple[list[Tensor], Tensor]]:
    """Copies of buffers: the many small ones of one type in one piece, which is copied and compared in one go."""
    groups: dict[Any, list[Tensor]] = {}
    for buffer in {id(b): b for b in buffers if not b.is_meta}.values():
        plain = buffer.layout is torch.strided and not buffer.is_quantized
        kind = buffer.dtype if buffer.is_cpu else (buffer.dtype, buffer.device)
        groups.setdefault(kind if plain else id(buffer), []).append(buffer)
    with torch.no_grad():
        return [(group, _joined(group)) for group in groups.values()]


def _joined(group: list[Tensor]) -> Tensor:
    return group[0].clone() if len(group) == 1 else _flatten_dense_tensors(group)


def _put_back(group: list[Tensor], before: Tensor) -> None:
    with torch.no_grad():
        if before.layout is not torch.strided:  # sparse: not to be compared
            group[0].copy_(before)
            return
        if torch.equal(_joined(group), before):
            return
        parts = [before] if len(group) == 1 else _unflatten_dense_tensors(before, group)
        for buffer, part in zip(group, parts):
            if not torch.equal(buffer, part):
                buffer.copy_(part)


def _restore(container: Any, before: Any) -> None:
    container.clear()
    container.extend(before) if isinstance(container, list) else container.update(before)
