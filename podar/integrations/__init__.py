"""Where models come from: one file a kind of MODEL, each registered by `model_source`, found by `find`.

A new kind is one new file in this folder with one decorated function; nothing else changes. The files import torch
and their library inside their functions, so that listing the kinds costs nothing; folders, and files that begin with
an underscore, help them.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn


@dataclass(frozen=True)
class Blueprint:
    """How to build one model, and what it eats.

    - `make`: builds the model, with the weights that belong to it (random ones where none do), in eval mode.
    - `inputs`: model → example inputs of the model's own default size (tensor, tuple or dict of keyword arguments).
    - `spec`: plain data from which `find` makes the same architecture again; a run folder keeps it as source.json.
    - `dense`: builds the architecture before any pruning, where that differs from `make`: what `podar.load` takes.
    - `trained`: the weights are known to be trained ones.
    - `notes`: what the user should know about the weights, one sentence each.
    - `read_weights`: `(file, trust)` → tensors by name, where the library has checkpoints of a form of its own.
    """

    make: Callable[[], nn.Module]
    inputs: Callable[[nn.Module], Any]
    spec: dict[str, Any]
    dense: Callable[[], nn.Module] | None = None
    trained: bool = False
    notes: tuple[str, ...] = ()
    read_weights: Callable[[Path, bool], dict[str, Tensor]] | None = None


@dataclass(frozen=True)
class Kind:
    """One kind of MODEL string: `form` is how the help writes it."""

    form: str
    accepts: Callable[[str], bool]
    complete: Callable[[str], Iterable[str]]
    blueprint: Callable[[str, dict[str, Any], bool], Blueprint] = field(repr=False)


_kinds: list[Kind] = []

Blueprinter = Callable[[str, dict[str, Any], bool], Blueprint]


def model_source(
    form: str, *, accepts: Callable[[str], bool], complete: Callable[[str], Iterable[str]]
) -> Callable[[Blueprinter], Blueprinter]:
    """Register a function `(model, model_args, trust) → Blueprint` for the MODEL strings that `accepts` takes.

    **Arguments:**

    - `form`: how the help writes this kind, e.g. `"timm:NAME"`.
    - `accepts`: MODEL string → whether it is of this kind.
    - `complete`: the beginning of a MODEL string → whole ones, for shell completion.
    """

    def register(blueprint: Blueprinter) -> Blueprinter:
        _kinds.append(Kind(form, accepts, complete, blueprint))
        return blueprint

    return register


def kinds() -> list[Kind]:
    """Every kind of MODEL, in the order of the files' names."""
    for found in sorted(pkgutil.iter_modules(__path__), key=lambda found: found.name):
        if not found.ispkg and found.name[0] != "_":
            importlib.import_module(f"{__name__}.{found.name}")
    return list(_kinds)


def find(model: str) -> Kind | None:
    """The kind that a MODEL string is of, or None."""
    return next((kind for kind in kinds() if kind.accepts(model)), None)
