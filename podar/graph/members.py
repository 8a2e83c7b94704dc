"""The modules, parameters and buffers of a model by name, from one walk over its tree."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError

Named = list[tuple[str, nn.Module]]


EVERY = frozenset(nn.Module().__dict__)
"""Attributes that every module has: most of what a module holds."""


def modules_of(model: nn.Module) -> Named:
    """(name, module) as `named_modules(remove_duplicate=False)` lists them: a shared module under each of its names.

    Raises:
        PodarError: one is a TorchScript program, whose members are out of reach.
    """
    found: Named = []
    waiting: Named = [("", model)]
    while waiting:
        prefix, module = waiting.pop()
        if isinstance(module, torch.jit.ScriptModule):
            raise PodarError(
                f"{prefix or 'the model'} is a TorchScript program, with its sizes written into it: prune the module "
                "that it was made from, then script or trace that again"
            )
        found.append((prefix, module))
        children = module.__dict__["_modules"]
        if children:
            stem = prefix + "." if prefix else ""
            waiting += [(stem + key, child) for key, child in reversed(children.items()) if child is not None]
    return found


def once(modules: Named) -> Named:
    """Each module under its first name alone, as `named_modules()` lists them."""
    first: dict[int, tuple[str, nn.Module]] = {}
    for name, module in modules:
        first.setdefault(id(module), (name, module))
    return list(first.values())


def parameters_of(modules: Named) -> dict[str, nn.Parameter]:
    """Each parameter under its first name alone, as `named_parameters()` lists them."""
    first: dict[int, tuple[str, Any]] = {}
    for name, tensor in _inside(modules, "_parameters"):
        first.setdefault(id(tensor), (name, tensor))
    return dict(first.values())


def tensors_of(modules: Named) -> dict[str, Tensor]:
    """Parameters, then buffers, a shared one under each of its names."""
    return dict([*_inside(modules, "_parameters"), *_inside(modules, "_buffers")])


def owners_of(modules: Named) -> dict[str, tuple[nn.Module, str]]:
    """For every name of a parameter or buffer the module that holds it, and its key there."""
    return {
        f"{prefix}.{key}" if prefix else key: (module, key)
        for prefix, module in modules
        for key in (*module.__dict__["_parameters"], *module.__dict__["_buffers"])
    }


def _inside(modules: Named, kind: str) -> Iterable[tuple[str, Tensor]]:
    for prefix, module in modules:
        for key, tensor in module.__dict__[kind].items():
            if tensor is not None:
                yield (f"{prefix}.{key}" if prefix else key), tensor
