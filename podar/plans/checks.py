"""Checks the plain data of a plan, which anybody may have written, before anything is made of them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from podar.trust.plain import Unreadable

_MOST = 1 << 40
_DIMS = 16
_ATTRIBUTE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*(\[\d{1,6}\])?")

Name = Annotated[str, Field(max_length=1000)]
Count = Annotated[int, Field(strict=True, ge=0, le=_MOST)]
Dim = Annotated[int, Field(strict=True, ge=0, lt=_DIMS)]
Value = (
    Annotated[int, Field(strict=True, ge=-_MOST, le=_MOST)]
    | Annotated[float, Field(strict=True, allow_inf_nan=False, ge=-1e30, le=1e30)]
)


class _Step(BaseModel):
    model_config = ConfigDict(extra="forbid")
    cuts: dict[Name, list[tuple[Dim, Count, Count, Annotated[int, Field(strict=True, ge=1, le=_MOST)]]]]
    attributes: dict[Name, dict[Name, Value]]
    rescales: dict[Name, list[tuple[Count, Value, Dim]]]
    shapes: dict[Name, Annotated[list[Count], Field(max_length=_DIMS)]]
    skips: dict[Name, tuple[Annotated[bool, Field(strict=True)], Annotated[int, Field(strict=True, ge=0, le=100)]]] = {}
    computed: dict[
        Name,
        tuple[
            Literal["length", "spectral"],
            Annotated[list[Name], Field(min_length=1, max_length=2)],
            Annotated[int, Field(strict=True, ge=-1, lt=_DIMS)],
        ],
    ] = {}


class _Data(BaseModel):
    podar_plan: int
    sets: list[list[Count]]
    steps: Annotated[list[_Step], Field(min_length=1, max_length=100_000)]


def check(data: Any) -> None:
    """Refuse data that are no plan: types, ranges, names of attributes, and what must agree.

    **Raises:** `Unreadable` with the first thing that is wrong, and where it stands.
    """
    try:
        read = _Data.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part)[:60] for part in first["loc"])
        raise Unreadable(f"{place}: {first['msg'][:1].lower()}{first['msg'][1:100]}") from None
    ends = [_last(indices, f"sets.{number}") for number, indices in enumerate(read.sets)]
    for at, step in enumerate(read.steps):
        _check_step(step, ends, f"steps.{at}")


def _last(indices: Sequence[int], of: str) -> int:
    """The largest of a list of indices, -1 of an empty one."""
    array = np.array(indices, dtype=np.int64)
    if len(array) > 1 and not bool((np.diff(array) > 0).all()):
        raise Unreadable(f"{of} is not in ascending order, each index once")
    return int(array[-1]) if len(array) else -1


def _check_step(step: _Step, ends: Sequence[int], of: str) -> None:
    def refuse(wrong: bool, place: str, what: str) -> None:
        if wrong:
            raise Unreadable(f"{of}.{place[:120]}: {what}")

    for name, cuts in step.cuts.items():
        place, shape = f"cuts.{name}", step.shapes.get(name)
        if shape is None:
            raise Unreadable(f"{of}.{place[:120]}: the tensor has no shape in shapes")
        refuse(len({cut[0] for cut in cuts}) < len(cuts), place, "a dimension stands twice")
        for dim, indices, size, groups in cuts:
            refuse(indices >= len(ends), place, f"there is no list {indices} of indices")
            refuse(dim >= len(shape), place, f"the tensor has no dimension {dim}")
            refuse(shape[dim] * groups != size, place, f"dimension {dim} has not {size} indices")
            refuse(groups > 1 and (dim != 1 or shape[0] % groups != 0), place, f"it has no {groups} groups")
            refuse(ends[indices] >= size, place, f"the index {ends[indices]} is beyond the {size} of dimension {dim}")
    for name, rescales in step.rescales.items():
        for indices, _factor, _dim in rescales:
            refuse(indices >= len(ends), f"rescales.{name}", f"there is no list {indices} of indices")
    for module, values in step.attributes.items():
        for key in values:
            fits = _ATTRIBUTE.fullmatch(key) is not None and "__" not in key
            refuse(not fits, f"attributes.{module}", f"{key[:60]!r} is no attribute that a plan may set")
