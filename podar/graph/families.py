"""Units that are interchangeable: the families of a solved graph.

**How they are found.** Two units are interchangeable where they occur on the same parameter axes, equally often on
each, and in the same parts of axes that are divided (halves of a chunk, groups of a convolution). Comparing the lists
of occurrences of thousands of units would be slow, so each unit gets a *fingerprint*: every axis, and every part
of a divided axis, draws a random number of 64 bits, and a unit's fingerprint is the sum of the numbers of all places
where it occurs. Equal occurrences always give equal fingerprints, so no family is ever torn apart.

**What a collision would do.** Different occurrences give equal sums once in 2⁶⁴ pairs of units. Such units would stand
in one group though they are not interchangeable: they would be ranked against each other, and prices and sizes that
count a family's share would be wrong. (What a plan removes would still fit together: slices follow from labels.) So the
families that were found are compared exactly with the occurrences (`_disagree`), which takes one pass over the axes;
where they do not agree, other numbers are drawn.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podar.graph.by_array import ByArray
from podar.graph.labels import INNER, OUTER, Ids, Solution
from podar.graph.sizes import Grid

SEED = 0x9E3779B97F4A7C15

DRAWS = 4
"""How often numbers are drawn: two collisions in a row happen in no lifetime."""

Layouts = Mapping[str, Mapping[int, Ids]]
"""For every parameter and buffer the labels along each of its dimensions."""


class Family(NamedTuple):
    """Interchangeable units: they occur on the same parameter axes, equally often, in the same part of each.

    **Attributes:**

    - `units`: unit numbers in the order of the axis.
    - `kin`: number shared by families that differ only in the part of an axis they lie on.
    - `role`: 0, OUTER (heads) or INNER (dimensions within a head).
    """

    units: Ids
    kin: int
    role: int


class Occurrences(NamedTuple):
    """Where units occur: row k says that `unit[k]` occurs `times[k]` times in place `place[k]`."""

    unit: Ids
    place: Ids
    times: Ids


class Families(Sequence[Family]):
    """The families of a solved graph, and which of them an axis depends on. Finished when it is made.

    **Attributes:**

    - `family_of`: for each unit the number of its family, −1 where it has none; the entry after the last unit is −1.
    - `divided`: units of axes whose parts must lose equally many, one array a divided axis.
    - `nested`: (outer family, inner family) that index one axis together, as heads and the dimensions within them do.
    - `units`: labels → the units (*ids.shape, k) under them, padded with `solution.units`.
    - `of`: labels → the numbers of the families that some index of them depends on.
    """

    def __init__(self, solution: Solution, layouts: Layouts, grids: Iterable[Grid] = ()) -> None:
        self.solution, self.layouts = solution, layouts
        self.units = ByArray[Ids](solution.units_of)
        self.of = ByArray[frozenset[int]](lambda ids: self.of_units(self.units(ids)))
        self.random = np.random.default_rng(SEED)
        on_axes = self._on_axes()
        in_parts, self.divided = self._in_parts(grids)
        self.all = self._found(on_axes, in_parts)
        self.family_of = np.full(solution.units + 1, -1)
        for k, family in enumerate(self.all):
            self.family_of[family.units] = k
        self.nested = self._nested()

    def __len__(self) -> int:
        return len(self.all)

    def __getitem__(self, k: int) -> Family:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self.all[k]

    def __iter__(self) -> Iterator[Family]:
        return iter(self.all)

    # Which families

    def of_units(self, units: Ids) -> frozenset[int]:
        """The numbers of the families that have some of these units."""
        present = np.zeros(len(self.all) + 1, dtype=bool)
        present[self.family_of[units]] = True  # −1, no family, marks the last entry
        return frozenset(np.flatnonzero(present[:-1]).tolist())

    def along(self, ids: Ids, axis: int) -> frozenset[int]:
        """Families whose units differ along one axis of a block."""
        if ids.ndim == 1:
            return self.of(ids)
        units = np.moveaxis(self.units(ids), axis, 0)
        differs = (units != units[:1]).any(axis=0)
        return self.of_units(units[:, differs])

    def of_tensor(self, name: str) -> set[int]:
        """Families that some dimension of a parameter or buffer depends on."""
        return self.on(self.layouts.get(name, {}).values())

    def on(self, axes: Iterable[Ids]) -> set[int]:
        """Families that some of these axes depend on; many parameters share the array of an axis."""
        distinct = {id(ids): ids for ids in axes}
        return set[int]().union(*[self.of(ids) for ids in distinct.values()])

    @cached_property
    def members(self) -> dict[int, list[tuple[str, int]]]:
        """For each family the slices that its units own: (tensor, dimension), in the order of the model."""
        found: dict[int, list[tuple[str, int]]] = {}
        for name, dims in self.layouts.items():
            for dim, ids in sorted(dims.items()):
                for k in self.of(ids):
                    found.setdefault(k, []).append((name, dim))
        return found

    def producer(self, family: int) -> tuple[str, int]:
        """The tensor and dimension that produce a family: its first member that is an axis of outputs."""
        members = self.members[family]
        return next((m for m in members if m[1] == 0), members[0])

    # How they are found

    def _on_axes(self) -> Occurrences:
        """Where units occur on the axes of parameters and buffers; tensors that share an array are one place."""
        distinct = list({id(ids): ids for dims in self.layouts.values() for ids in dims.values()}.values())
        if not distinct:
            return _NOWHERE
        sizes = [ids.size for ids in distinct]
        every = self.solution.units_of(np.concatenate([ids.ravel() for ids in distinct]))
        for ids, end in zip(distinct, np.cumsum(sizes).tolist()):
            self.units.set(ids, every[end - ids.size : end].reshape(*ids.shape, -1))
        width = every.shape[1]
        unit, place = every.T.ravel(), np.tile(np.repeat(np.arange(len(sizes)), sizes), width)
        real = unit < self.solution.units
        unit, place = unit[real], place[real]
        return Occurrences(unit, place, np.ones(len(unit), dtype=np.int64))

    def _in_parts(self, grids: Iterable[Grid]) -> tuple[Occurrences, list[Ids]]:
        """In which parts of divided axes units occur, for those that occur in some only, or unevenly."""
        places, found, divided = 0, [_NOWHERE], list[Ids]()
        for grid in grids:
            own: list[Ids] = []
            for level in range(1, grid.ids.ndim):
                parts = math.prod(grid.ids.shape[:level])
                uneven = self._uneven(self.units(grid.ids), parts)
                found.append(uneven._replace(place=uneven.place + places))
                own.append(uneven.unit)
                places += parts
            touched = np.unique(np.concatenate(own)) if own else _NOTHING
            if len(touched):
                divided.append(touched)
        return Occurrences(*(np.concatenate(column) for column in zip(*found))), divided

    def _uneven(self, units: Ids, parts: int) -> Occurrences:
        """Where units occur among equal parts of an axis, without those that are spread evenly over all parts."""
        flat = units.reshape(parts, -1, units.shape[-1])
        width = flat.shape[1]
        where = np.broadcast_to(np.arange(parts)[:, None, None], flat.shape)
        if width > 1 and self._alone(flat):
            return Occurrences(flat.ravel(), where.ravel(), np.ones(flat.size, dtype=np.int64))
        key, counts = np.unique(flat.ravel() * parts + where.ravel(), return_counts=True)
        unit, at = key // parts, key % parts
        real = unit < self.solution.units
        unit, at, counts = unit[real], at[real], counts[real]
        lowest = np.full(self.solution.units + 1, width)
        np.minimum.at(lowest, unit, counts)
        highest = np.zeros(self.solution.units + 1, dtype=np.int64)
        np.maximum.at(highest, unit, counts)
        spread = np.bincount(unit, minlength=self.solution.units + 1)
        even = (spread[unit] == parts) & (lowest[unit] == highest[unit])
        part = ~even & (counts < width)
        return Occurrences(unit[part], at[part], counts[part])

    def _alone(self, units: Ids) -> bool:
        """Whether every index has one unit, and no other index has it: the usual axis of channels in groups."""
        if units.shape[-1] > 1 or units.max() >= self.solution.units:
            return False
        return int(np.bincount(units.ravel()).max()) == 1

    def _found(self, on_axes: Occurrences, in_parts: Occurrences) -> list[Family]:
        """Units of one fingerprint as families, in the order of their first units."""
        count = self.solution.units
        role = self.solution.role.astype(np.uint64) * np.uint64(SEED)
        used = np.zeros(count, dtype=bool)
        used[on_axes.unit] = True
        for _ in range(DRAWS):
            kin = self._fingerprints(on_axes) + role
            kin_of = _numbered(kin)
            family_of = _numbered(kin * np.uint64(SEED) + self._fingerprints(in_parts))
            if not (_disagree(kin_of, on_axes) or _disagree(family_of, in_parts)):
                break
        else:
            raise RuntimeError(f"{DRAWS} draws of random numbers gave different units one fingerprint")
        order = np.argsort(family_of, kind="stable")
        ends = np.flatnonzero(np.diff(family_of[order], append=-1)) + 1
        starts = np.r_[0, ends[:-1]][: len(ends)]
        first = order[starts]
        chosen = np.flatnonzero(used[first])
        chosen = chosen[np.argsort(first[chosen])]
        numbers = (a[chosen].tolist() for a in (starts, ends, kin_of[first], self.solution.role[first]))
        return [Family(order[start:end], kin, role) for start, end, kin, role in zip(*numbers)]

    def _fingerprints(self, occurrences: Occurrences) -> NDArray[np.uint64]:
        """For each unit the sum of its places' random numbers, as often as it occurs there (modulo 2⁶⁴)."""
        unit, place, times = occurrences
        weights = self._draw(int(place.max(initial=-1)) + 1)
        total = np.zeros(self.solution.units + 1, dtype=np.uint64)
        np.add.at(total, unit, weights[place] * times.astype(np.uint64))
        return total[:-1]

    def _draw(self, n: int) -> NDArray[np.uint64]:
        return self.random.integers(1, 2**63, size=n, dtype=np.uint64)

    def _nested(self) -> list[tuple[int, int]]:
        """(outer family, inner family) that index one axis together."""
        support = self.solution.support
        rows = support[(support < self.solution.units).sum(axis=1) > 1]
        families, count = self.family_of[rows], len(self.all) + 1
        pairs: set[tuple[int, int]] = set()
        for a, b in itertools.permutations(range(rows.shape[1]), 2):
            met = np.unique((families[:, a] + 1) * count + families[:, b] + 1)
            for p, q in zip((met // count - 1).tolist(), (met % count - 1).tolist()):
                if p >= 0 and q >= 0 and self._rank(p) < self._rank(q):
                    pairs.add((p, q))
        return sorted(pairs)

    def _rank(self, family: int) -> tuple[int, int]:
        role = self.all[family].role
        return ({OUTER: 0, 0: 1, INNER: 2}[role], int(self.all[family].units[0]))


_NOTHING: Ids = np.zeros(0, dtype=np.int64)
_NOWHERE = Occurrences(_NOTHING, _NOTHING, _NOTHING)


def _disagree(class_of: Ids, occurrences: Occurrences) -> bool:
    """Whether two units of one class occur in different places, or not equally often: the exact check.

    A place agrees where it has each of its units once, and of a class all units or none. That is seen by counting.
    Only of places that are otherwise the occurrences are sorted, and each unit's list is compared with that of the
    first unit of its class.
    """
    unit, place, times = occurrences
    if not len(unit):
        return False
    places, classes = int(place.max()) + 1, int(class_of.max()) + 1
    fine = np.ones(places, dtype=bool)
    fine[place[times > 1]] = False
    same = place[1:] == place[:-1]
    fine[place[1:][same & (unit[1:] <= unit[:-1])]] = False  # where units rise, each is there once …
    fine[np.bincount(place[np.r_[True, ~same]], minlength=places) > 1] = False  # … if they stand in one row
    key = place * classes + class_of[unit]
    starts = np.flatnonzero(np.r_[True, key[1:] != key[:-1]])
    key, run = np.unique(key[starts], return_inverse=True)
    here = np.bincount(run, weights=np.diff(starts, append=len(unit)))
    size = np.bincount(class_of, minlength=classes)
    fine[(key // classes)[here != size[key % classes]]] = False
    rest = ~fine[place]
    if not rest.any():
        return False
    most = places * (int(times.max()) + 1)
    code = np.sort(unit[rest] * most + place[rest] * (most // places) + times[rest])
    of, what = code // most, code % most  # sorted by unit; then by place, and how often the unit occurs there
    length = np.bincount(of, minlength=len(class_of))
    start = np.cumsum(length) - length
    first = np.zeros(classes, dtype=np.int64)
    first[class_of[::-1]] = np.arange(len(class_of))[::-1]
    leader = first[class_of]
    if (length != length[leader]).any():
        return True
    beside = start[leader[of]] + np.arange(len(of)) - start[of]
    return bool((what != what[beside]).any())


def by_size(families: Sequence[Ids]) -> list[tuple[list[int], Ids]]:
    """Families of one size as the rows of one matrix, with their places: there may be thousands."""
    places: dict[int, list[int]] = {}
    for k, units in enumerate(families):
        places.setdefault(len(units), []).append(k)
    # np.stack takes several times as long.
    return [(own, np.concatenate([families[k] for k in own]).reshape(len(own), -1)) for own in places.values()]


def _numbered(codes: NDArray[np.uint64]) -> Ids:
    """For each code its place among the distinct ones; neighbours mostly share theirs, so only runs are sorted."""
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(codes) else np.zeros(0, dtype=np.int64)
    numbers = np.unique(codes[starts], return_inverse=True)[1]
    return np.repeat(numbers, np.diff(np.append(starts, len(codes))))
