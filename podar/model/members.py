"""The modules, parameters and buffers of a model by name, from one walk over its tree."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError

Named = list[tuple[str, nn.Module]]


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
        waiting: Named = [("", model)]
        while waiting:
            prefix, module = waiting.pop()
            if isinstance(module, torch.jit.ScriptModule):
                raise PodarError(
                    f"{prefix or 'the model'} is a TorchScript program, with its sizes written into it: prune the "
                    "module that it was made from, then script or trace that again"
                )
            self.all.append((prefix, module))
            children = module.__dict__["_modules"]
            if children:
                stem = prefix + "." if prefix else ""
                waiting += [(stem + key, child) for key, child in reversed(children.items()) if child is not None]

    def mapped(self, copies: dict[int, tuple[Any, Any]]) -> Members:
        """The same of a copy of the model, given (original, copy) by the id of every module, parameter and buffer."""
        other = Members.__new__(Members)
        other.all = [(name, copies[id(m)][1]) for name, m in self.all]
        other.once = [(name, copies[id(m)][1]) for name, m in self.once]
        other.buffers = {name: copies[id(t)][1] for name, t in self.buffers.items()}
        other.tensors = {name: copies[id(t)][1] for name, t in self.tensors.items()}
        return other

    @cached_property
    def once(self) -> Named:
        """Each module under its first name alone, as `named_modules()` lists them."""
        first: dict[int, tuple[str, nn.Module]] = {}
        for name, module in self.all:
            first.setdefault(id(module), (name, module))
        return list(first.values())

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
        return {**self._inside("_parameters"), **self.buffers}

    @cached_property
    def buffers(self) -> dict[str, Tensor]:
        """Buffers, a shared one under each of its names."""
        return self._inside("_buffers")

    @cached_property
    def parameters(self) -> dict[str, nn.Parameter]:
        """Each parameter under its first name alone, as `named_parameters()` lists them."""
        first: dict[int, tuple[str, nn.Parameter]] = {}
        for name, parameter in self._inside("_parameters").items():
            first.setdefault(id(parameter), (name, parameter))
        return dict(first.values())

    def _inside(self, kind: str) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for prefix, module in self.all:
            tensors = module.__dict__[kind]
            if tensors:
                stem = prefix + "." if prefix else ""
                found.update([(stem + key, tensor) for key, tensor in tensors.items() if tensor is not None])
        return found
