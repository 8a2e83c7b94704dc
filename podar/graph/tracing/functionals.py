"""Copies of the Python functions of torch.nn.functional whose inner calls can be seen; torch's own are not changed.

Each of them begins with `if has_torch_function(…): return handle_torch_function(…)`, which hands the call as a whole to
the function mode and lets it see nothing of what happens inside. The same code runs here with other globals, in which
`has_torch_function` says no.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from torch.nn import functional

HIDES = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")

SIZE_CHECKS = ("_verify_batch_size", "_verify_spatial_size")
"""Checks that are left out in train mode: they refuse a single picture, which is enough to see the operators."""

Bodies = dict[Any, Callable[..., Any]]


def _no(*_: Any) -> bool:
    return False


def _pass(*_: Any) -> None:
    return None


def _made(names: dict[str, Any], train: bool) -> Bodies:
    own = names.copy()
    own.update(dict.fromkeys(HIDES, _no))
    bodies: Bodies = {}
    for key, value in names.items():
        if isinstance(value, types.FunctionType) and key not in HIDES:
            made = _with_globals(value, own)
            if made is not None:
                own[key] = bodies[value] = made
    for key, value in names.items():
        if isinstance(value, types.FunctionType) and value.__closure__ and value not in bodies:
            own[key] = bodies[value] = _with_cells(value, bodies)
    if train:
        own.update(dict.fromkeys(SIZE_CHECKS, _pass))
    return bodies


def _with_globals(function: types.FunctionType, names: dict[str, Any]) -> Callable[..., Any] | None:
    """A function of torch.nn.functional itself, over other globals."""
    if function.__globals__ is not functional.__dict__:
        return None
    made = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


def _with_cells(function: types.FunctionType, bodies: Bodies) -> Callable[..., Any]:
    """The same of a function that chooses between two others, which it holds in its closure."""
    held = [cell.cell_contents for cell in function.__closure__ or ()]
    cells = tuple(types.CellType(bodies.get(h, h) if isinstance(h, types.FunctionType) else h) for h in held)
    made = types.FunctionType(function.__code__, function.__globals__, function.__name__, function.__defaults__, cells)
    made.__kwdefaults__ = function.__kwdefaults__
    return made


_known: dict[bool, tuple[dict[str, Any], Bodies]] = {}


def bodies(train: bool) -> Bodies:
    """By function of torch.nn.functional what to run instead. They are made anew where somebody replaced torch's."""
    names = functional.__dict__
    known = _known.get(train)
    if known is None or known[0] != names:
        _known[train] = known = (names.copy(), _made(names, train))
    return known[1]
