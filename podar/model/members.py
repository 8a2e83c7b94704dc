"""The modules, parameters and buffers of a model by name, from one walk over its tree."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from podar.errors import PodarError

Named = list[tuple[str, nn.Module]]

T = TypeVar("T")

EVERY = frozenset(nn.Module().__dict__)
"""Attributes that every module has: most of what a module holds."""


class Members:
    """What a model consists of at one moment; each list is made when it is first asked for.

    **Attributes:**

    - `all`: (name, module) as `named_modules(remove_duplicate=False)` lists them, a shared one under each of its names.

    **Raises:** `PodarError`: one is a TorchScript program, whose members are out of reach.
    """

    def __init__(self, model: nn.Module) -> None:
        self.all: Named = []
        kinds = set[type]()
        waiting: Named = [("", model)]
        while waiting:
            named = prefix, module = waiting.pop()
            if type(module) not in kinds:
                if isinstance(module, torch.jit.ScriptModule):
                    raise PodarError(
                        f"{prefix or 'the model'} is a TorchScript program, with its sizes written into it: prune the "
                        "module that it was made from, then script or trace that again"
                    )
                kinds.add(type(module))
            self.all.append(named)
            children = module.__dict__["_modules"]
            if children:
                stem = prefix + "." if prefix else ""
                waiting += [(stem + key, child) for key, child in reversed(children.items()) if child is not None]

    @cached_property
    def once(self) -> Named:
        """Each module under its first name alone, as `named_modules()` lists them."""
        return _first(self.all)

    @cached_property
    def owners(self) -> dict[str, tuple[nn.Module, str]]:
        """For every name of a parameter, then of a buffer, the module that holds it, and its key there."""
        return {
            f"{prefix}.{key}" if prefix else key: (module, key)
            for kind in ("_parameters", "_buffers")
            for prefix, module in self.all
            for key, tensor in module.__dict__[kind].items()
            if tensor is not None
        }

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Parameters, then buffers, a shared one under each of its names."""
        return {**self._all_parameters, **self.buffers}

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers, a shared one under each of its names."""
        return self._inside("_buffers")

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Each parameter under its first name alone, as `named_parameters()` lists them."""
        return dict(_first(list(self._all_parameters.items())))

    @cached_property
    def floating(self) -> dict[str, Tensor]:
        """The parameters that hold floating-point numbers, detached, each under its first name alone."""
        return {name: p.detach() for name, p in self.parameters.items() if p.is_floating_point()}

    @cached_property
    def _all_parameters(self) -> dict[str, nn.Parameter]:
        return self._inside("_parameters")

    def _inside(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for prefix, module in self.all:
            if held := module.__dict__[kind]:
                stem = prefix + "." if prefix else ""
                for key, tensor in held.items():
                    if tensor is not None:
                        found[stem + key] = tensor
        return found


def _first(named: list[tuple[str, T]]) -> list[tuple[str, T]]:
    """Each thing under the first of its names; the list itself where each has one name only."""
    if len({id(thing) for _, thing in named}) == len(named):
        return named
    first: dict[int, tuple[str, T]] = {}
    for name, thing in named:
        first.setdefault(id(thing), (name, thing))
    return list(first.values())
