"""Units that are interchangeable, and which families must lose in step: identity ties become count ties here."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence, Set
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from podar.graph.labels import INNER, OUTER, Ids, Labels, Solution
from podar.graph.sizes import (
    Attribute,
    Constraint,
    Equality,
    Expr,
    Grid,
    SizeConflict,
    Solver,
    Term,
    attributes_in,
    attributes_of,
    axes_in,
)

_Item = TypeVar("_Item")

SEED = 0x9E3779B97F4A7C15


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


class Cluster(NamedTuple):
    """Families that must lose the same share; `steps` is how many equal moves that allows."""

    families: tuple[int, ...]
    steps: int


class Ties:
    """Finds families and clusters, and freezes what no attribute can follow."""

    def __init__(
        self,
        labels: Labels,
        solution: Solution,
        layouts: dict[str, dict[int, Ids]],
        constraints: list[Constraint],
        ties: list[tuple[Ids, ...]],
        dense: dict[Attribute, int],
    ) -> None:
        self.labels, self.solution, self.constraints, self.ties, self.dense = labels, solution, constraints, ties, dense
        self.random = np.random.default_rng(SEED)
        self.units_by_array: dict[int, tuple[Ids, Ids]] = {}
        self.families_by_array: dict[int, frozenset[int]] = {}
        self.families = self._families(layouts)
        self.family_of = np.full(solution.units + 1, -1)
        for k, family in enumerate(self.families):
            self.family_of[family.units] = k
        self.members = [self._members(c) for c in constraints]
        self.names = [attributes_in(c) for c in constraints]
        self.on_family, self.by_name = _places(self.members), _places(self.names)
        self.gone = np.zeros(solution.units + 1, dtype=bool)  # while a cluster is checked
        self.reason: dict[int, str] = {}
        self.nested = self._nested()

    def units(self, ids: Ids) -> Ids:
        """(*ids.shape, k) units under labels, remembered by array."""
        found = self.units_by_array.get(id(ids))
        if found is None:
            found = (ids, self.solution.units_of(ids))
            self.units_by_array[id(ids)] = found
        return found[1]

    def families_in(self, ids: Ids) -> frozenset[int]:
        """Families that some index of `ids` depends on, remembered by array."""
        found = self.families_by_array.get(id(ids))
        if found is None:
            found = self.families_by_array[id(ids)] = self._families_of(self.units(ids))
        return found

    def _families_of(self, units: Ids) -> frozenset[int]:
        present = np.zeros(len(self.families) + 1, dtype=bool)
        present[self.family_of[units]] = True  # −1, no family, marks the last entry
        return frozenset(np.flatnonzero(present[:-1]).tolist())

    def along(self, ids: Ids, axis: int) -> frozenset[int]:
        """Families whose units differ along one axis of a block."""
        if ids.ndim == 1:
            return self.families_in(ids)
        units = np.moveaxis(self.units(ids), axis, 0)
        differs = (units != units[:1]).any(axis=0)
        return self._families_of(units[:, differs])

    # Families

    def _families(self, layouts: dict[str, dict[int, Ids]]) -> list[Family]:
        count = self.solution.units
        kin, row = np.zeros(count + 1, dtype=np.uint64), np.zeros(count + 1, dtype=np.uint64)
        arrays = [ids for dims in layouts.values() for ids in dims.values()]
        weights = self._draw(len(arrays))
        if arrays:
            # An array that several parameters share counts with the sum of their weights.
            place: dict[int, int] = {}
            where = [place.setdefault(id(ids), len(place)) for ids in arrays]
            distinct = list({id(ids): ids for ids in arrays}.values())
            total = np.zeros(len(distinct), dtype=np.uint64)
            np.add.at(total, where, weights)
            sizes = [ids.size for ids in distinct]
            every = self.solution.units_of(np.concatenate([ids.ravel() for ids in distinct]))
            np.add.at(kin, every, np.repeat(total, sizes)[:, None])
            for ids, end in zip(distinct, np.cumsum(sizes).tolist()):
                self.units_by_array[id(ids)] = (ids, every[end - ids.size : end].reshape(*ids.shape, -1))
        partial = [self._rows(g, row) for g in self.constraints if isinstance(g, Grid) and g.ids.ndim > 1]
        kin[:count] += self.solution.role.astype(np.uint64) * np.uint64(SEED)
        used = kin[:count] != self.solution.role.astype(np.uint64) * np.uint64(SEED)
        kin_of = _numbered(kin[:count])
        family_of = _numbered(kin[:count] * np.uint64(SEED) + row[:count])
        order = np.argsort(family_of, kind="stable")
        ends = np.flatnonzero(np.diff(family_of[order], append=-1)) + 1
        starts = np.r_[0, ends[:-1]][: len(ends)]
        first = order[starts]
        chosen = np.flatnonzero(used[first])
        chosen = chosen[np.argsort(first[chosen])]
        numbers = (a[chosen].tolist() for a in (starts, ends, kin_of[first], self.solution.role[first]))
        self._partial = [p for p in partial if len(p)]
        return [Family(order[start:end], kin, role) for start, end, kin, role in zip(*numbers)]

    def _draw(self, n: int) -> NDArray[np.uint64]:
        return self.random.integers(1, 2**63, size=n, dtype=np.uint64)

    def _rows(self, grid: Grid, row: NDArray[np.uint64]) -> Ids:
        """Mark units that lie in some rows of a block only; they are the ones whose counts the rows must share."""
        units = self.units(grid.ids)
        touched = []
        for level in range(1, grid.ids.ndim):
            rows = math.prod(grid.ids.shape[:level])
            flat = units.reshape(rows, -1, units.shape[-1])
            width = flat.shape[1]
            where = np.broadcast_to(np.arange(rows)[:, None, None], flat.shape)
            if width > 1 and self._alone(flat):
                np.add.at(row, flat.ravel(), self._draw(rows)[where.ravel()])
                touched.append(np.sort(flat.ravel()))
                continue
            key, counts = np.unique(flat.ravel() * rows + where.ravel(), return_counts=True)
            unit, at = key // rows, key % rows
            real = unit < self.solution.units
            unit, at, counts = unit[real], at[real], counts[real]
            spread = np.bincount(unit, minlength=self.solution.units + 1)
            even = spread[unit] == rows
            lowest = np.full(self.solution.units + 1, width)
            np.minimum.at(lowest, unit, counts)
            highest = np.zeros(self.solution.units + 1, dtype=np.int64)
            np.maximum.at(highest, unit, counts)
            even &= lowest[unit] == highest[unit]
            part = ~even & (counts < width)
            weights = self._draw(rows)
            np.add.at(row, unit[part], weights[at[part]] * counts[part].astype(np.uint64))
            touched.append(np.unique(unit[part]))
        return np.concatenate(touched) if touched else np.zeros(0, dtype=np.int64)

    def _alone(self, units: Ids) -> bool:
        """Whether every index has one unit, and no other index has it: the usual axis of channels in groups."""
        if units.shape[-1] > 1 or units.max() >= self.solution.units:
            return False
        return int(np.bincount(units.ravel()).max()) == 1

    def _nested(self) -> list[tuple[int, int]]:
        """(outer family, inner family) that index one axis together."""
        support = self.solution.support
        rows = support[(support < self.solution.units).sum(axis=1) > 1]
        families, count = self.family_of[rows], len(self.families) + 1
        pairs: set[tuple[int, int]] = set()
        for a, b in itertools.permutations(range(rows.shape[1]), 2):
            met = np.unique((families[:, a] + 1) * count + families[:, b] + 1)
            for p, q in zip((met // count - 1).tolist(), (met % count - 1).tolist()):
                if p >= 0 and q >= 0 and self._rank(p) < self._rank(q):
                    pairs.add((p, q))
        return sorted(pairs)

    def _rank(self, family: int) -> tuple[int, int]:
        role = self.families[family].role
        return ({OUTER: 0, 0: 1, INNER: 2}[role], int(self.families[family].units[0]))

    # Clusters

    def _members(self, constraint: Constraint) -> frozenset[int]:
        arrays = [constraint.ids] if isinstance(constraint, Grid) else []
        exprs = constraint.exprs if isinstance(constraint, Grid) else (constraint.left, constraint.right)
        arrays += [a.ids for e in exprs for a in axes_in(e)]
        return frozenset[int]().union(*(self.families_in(ids) for ids in arrays))

    def held(self, inner: Iterable[int] = (), frozen: Iterable[int] = ()) -> set[int]:
        """Families that stay because another one on the same axis goes: heads go, or inner dims if one head is left."""
        chosen, frozen = set(inner), set(frozen) | self.reason.keys()
        held: set[int] = set()
        for outer, within in self.nested:
            if within in chosen:
                held.add(outer)
            elif outer not in frozen and len(self.families[outer].units) > 1 and outer not in held:
                held.add(within)
        return held - chosen

    def clusters(self, inner: Iterable[int] = (), frozen: dict[int, str] | None = None) -> list[Cluster]:
        """Families that lose in step. What cannot be solved is frozen, its reason kept in `reason`."""
        for family, why in (frozen or {}).items():
            self.reason.setdefault(family, why)
        inner = set(inner)
        while True:
            held = self.held(inner)
            active = {k for k in range(len(self.families)) if k not in held and k not in self.reason}
            joined = self._joined(active)
            clusters, before = [], len(self.reason)
            for members in joined:
                conflict = self._check(members)
                if conflict is None:
                    steps = math.gcd(*(len(self.families[k].units) for k in members))
                    clusters.append(Cluster(tuple(sorted(members)), steps))
                else:
                    blamed, why = conflict
                    for k in blamed:
                        self.reason[k] = why
            if len(self.reason) == before:
                return clusters

    def _joined(self, active: set[int]) -> list[set[int]]:
        """Unite active families that rows, attributes or sizes of other axes tie."""
        parent = {k: k for k in active}

        def root(k: int) -> int:
            while parent[k] != k:
                parent[k] = parent[parent[k]]
                k = parent[k]
            return k

        def unite(families: Iterable[int]) -> None:
            roots = [root(k) for k in families if k in active]
            for r in roots[1:]:
                parent[root(r)] = root(roots[0])

        for units in self._partial:
            unite(self._families_of(units))
        for tie in self.ties:
            sides = [self.families_in(ids) & active for ids in tie]
            if all(sides):
                unite(set().union(*sides))
        named: dict[Attribute, set[int]] = {}
        sized = [(e, g.ids, k) for g in self.constraints if isinstance(g, Grid) for k, e in enumerate(g.exprs)]
        for expr, ids, axis in sized:
            if isinstance(expr, Attribute):
                named.setdefault(expr, set()).update(self.along(ids, axis) & active)
        for families in named.values():
            unite(families)
        for expr, ids, axis in sized:
            if isinstance(expr, Term) or axes_in(expr):
                unite(self.along(ids, axis) | self._in(expr, named))
        for c in self.constraints:
            if isinstance(c, Equality):
                unite(self._in(c.left, named) | self._in(c.right, named))
        found: dict[int, set[int]] = {}
        for k in active:
            found.setdefault(root(k), set()).add(k)
        return sorted(found.values(), key=min)

    def _in(self, expr: Expr | None, named: dict[Attribute, set[int]]) -> set[int]:
        found = [self.along(a.ids, a.axis) for a in axes_in(expr)]
        found += [named.get(a, set()) for a in attributes_of(expr)]
        return set().union(*found) if found else set()

    def _check(self, members: set[int]) -> tuple[set[int], str] | None:
        """Remove a random share of a cluster and see whether every size can still be solved."""
        sizes = [len(self.families[k].units) for k in members]
        steps = math.gcd(*sizes)
        if steps == 1 and len(members) == 1:
            return members, "nothing else like it could stay"
        if steps == 1:
            heads = {outer for outer, within in self.nested if outer in members and within not in self.reason}
            return heads or members, "axes tied to it in number have no common step"  # without heads, inner dims go
        relevant = self.relevant(members)
        if not relevant:
            return None
        units = by_size([self.families[k].units for k in members])
        shuffled = [self.random.permuted(rows, axis=1) for _, rows in units]
        solver = Solver(relevant, self.dense)
        for step in {1, steps // 2}:
            chosen = [rows[:, : step * (rows.shape[1] // steps)] for rows in shuffled]
            try:
                self._mark(chosen, True)
                solver.solve(lambda ids: np.logical_not(self.gone[self.units(ids)].any(axis=-1)))
            except SizeConflict as conflict:
                k = next(i for i, c in enumerate(self.constraints) if c is conflict.constraint)
                named = (self.by_name[name] for name in self.names[k])
                beside = set[int]().union(*(self.members[i] for places in named for i in places))
                return set(self.members[k] & members) or beside & members or members, conflict.why
            finally:
                self._mark(chosen, False)
        return None

    def _mark(self, chosen: list[Ids], gone: bool) -> None:
        for units in chosen:
            self.gone[units] = gone

    def relevant(self, members: set[int]) -> list[Constraint]:
        """Constraints on these families, and those that hang together with them by attributes."""
        own = set[int]().union(*(self.on_family.get(k, ()) for k in members))
        waiting = set[Attribute]().union(*(self.names[k] for k in own))
        seen: set[Attribute] = set()
        while waiting:  # each attribute once
            seen |= waiting
            found = set[int]().union(*(self.by_name[name] for name in waiting)) - own
            own |= found
            waiting = set[Attribute]().union(*(self.names[k] for k in found)) - seen
        return [self.constraints[k] for k in sorted(own)]


def by_size(families: Sequence[Ids]) -> list[tuple[list[int], Ids]]:
    """Families of one size as the rows of one matrix, with their places: there may be thousands."""
    places: dict[int, list[int]] = {}
    for k, units in enumerate(families):
        places.setdefault(len(units), []).append(k)
    # np.stack takes several times as long.
    return [(own, np.concatenate([families[k] for k in own]).reshape(len(own), -1)) for own in places.values()]


def _places(sets: Sequence[Set[_Item]]) -> dict[_Item, list[int]]:
    """For each item the places of the sets that have it."""
    found: dict[_Item, list[int]] = {}
    for k, items in enumerate(sets):
        for item in items:
            found.setdefault(item, []).append(k)
    return found


def _numbered(codes: NDArray[np.uint64]) -> Ids:
    """For each code its place among the distinct ones; neighbours mostly share theirs, so only runs are sorted."""
    starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]]) if len(codes) else np.zeros(0, dtype=np.int64)
    numbers = np.unique(codes[starts], return_inverse=True)[1]
    return np.repeat(numbers, np.diff(np.append(starts, len(codes))))
