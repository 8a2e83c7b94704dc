"""Leaves a model exactly as it was: attributes, containers, buffers, modes, hooks and the random state."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from collections.abc import Generator
from typing import Any

import torch
from torch import nn

from podar.graph.members import Named, once


@contextlib.contextmanager
def protected(modules: Named, *, train: bool = False) -> Generator[None]:
    """Set every module to eval (or train) mode, and restore everything that a forward pass may have changed.

    Modes are set on the modules directly: `model.eval()` can be overridden, with side effects of its own.
    Buffers are copied (they are small); parameters are not, since a forward pass does not write to them.
    """
    saved: list[tuple[nn.Module, dict[str, Any], dict[str, Any]]] = []
    buffers: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
    for _, module in once(modules):
        attributes = module.__dict__
        inner = {k: v.copy() for k, v in attributes.items() if type(v) in (dict, list, set)}
        saved.append((module, attributes.copy(), inner))
        for buffer in attributes["_buffers"].values():
            if buffer is not None and id(buffer) not in buffers and buffer.device.type != "meta":
                buffers[id(buffer)] = (buffer, buffer.detach().clone())
        attributes["training"] = train
    random = torch.get_rng_state()
    try:
        yield
    finally:
        torch.set_rng_state(random)
        for module, attributes, inner in saved:
            module.__dict__.clear()
            module.__dict__.update(attributes)
            for key, copied in inner.items():
                container = attributes[key]
                if container or copied:
                    _restore(container, copied)
        with torch.no_grad():
            for buffer, before in buffers.values():
                if buffer._version and not torch.equal(buffer, before):
                    buffer.copy_(before)


def _restore(container: Any, before: Any) -> None:
    container.clear()
    container.extend(before) if isinstance(container, list) else container.update(before)
