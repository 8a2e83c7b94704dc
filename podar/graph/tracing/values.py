"""Which numbers an operator computes with: scalar operands, and small tensors of the program's own."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

LITERAL = 16
"""A tensor of at most this many elements is compared by what it holds."""


class Places(NamedTuple):
    """Where among an operator's arguments numbers stand that it computes with; None: any float is one."""

    positions: tuple[int, ...] | None
    names: tuple[str, ...] = ()
    draws: bool = False  # whether it draws random numbers


FLOATS = Places(None)


def places_of(func: Any, where: int | None) -> Places:
    """Read from the operator's schema. Where it says Tensor, Python may have given a number.

    `where`: the place of the argument that is a position on an axis, and no size.
    """
    schema = func._schema
    values = [a for a in schema.arguments if any(kind in str(a.type) for kind in ("number", "float", "Tensor"))]
    order = {a.name: k for k, a in enumerate(schema.arguments)}
    positions = [order[a.name] for a in values if not a.kwarg_only]
    if where is not None:
        positions.append(where)
    names = tuple(a.name for a in values)
    return Places(tuple(positions), names, torch.Tag.nondeterministic_seeded in func.tags)


NUMBERS = (float, int)


def numbers_at(places: Places, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[float, ...]:
    """The numbers in a call that reach a value; sizes, dimensions and shapes are none."""
    if places.positions is None:
        return tuple([a for a in (*args, *kwargs.values()) if type(a) is float])
    given = len(args)
    found: list[float] = []
    for k in places.positions:
        if k < given:
            kind = type(args[k])
            if kind in NUMBERS:
                found.append(args[k])
            elif kind is list or kind is tuple:
                found += [a for a in args[k] if type(a) in NUMBERS]
    if kwargs:
        found += [kwargs[k] for k in places.names if type(kwargs.get(k)) in NUMBERS]
    return tuple(found)


def contents_of(tensors: Sequence[Tensor], most: int) -> tuple[float, ...]:
    """The contents of small tensors whose values are known."""
    found: list[float] = []
    for t in tensors:
        if t.numel() <= most and t.is_cpu and t.layout is torch.strided and not t.is_quantized:
            found += t.flatten().tolist()
    return tuple(found)
