"""Which families must lose the same share, since an attribute, a divided axis or the size of another axis ties them.

Identity ties (the same indices of all go) make units and families; these are the *count ties* on top of them.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import NamedTuple, TypeVar

import numpy as np

from podar.graph.equations import SizeConflict, Solver
from podar.graph.families import SEED, Families, by_size
from podar.graph.labels import Ids
from podar.graph.sizes import (
    Attribute,
    Constraint,
    Equality,
    Expr,
    Grid,
    Term,
    attributes_in,
    attributes_of,
    axes_in,
)

_Item = TypeVar("_Item")


class Cluster(NamedTuple):
    """Families that must lose the same share; `steps` is how many equal moves that allows."""

    families: tuple[int, ...]
    steps: int


class Clustering(NamedTuple):
    """A choice of clusters, and for each family that stays whole the reason."""

    clusters: tuple[Cluster, ...]
    reason: dict[int, str]


class Ties:
    """The count ties of a solved graph. Finished when it is made: each question for clusters is answered anew."""

    def __init__(
        self,
        families: Families,
        constraints: Sequence[Constraint],
        ties: Sequence[tuple[Ids, ...]],
        dense: dict[Attribute, int],
    ) -> None:
        """`ties`: labels of axes that must lose equally many, as rules recorded them; `dense`: values of attributes."""
        self.families, self.constraints, self.ties, self.dense = families, constraints, ties, dense
        self.touched = [self._touched(c) for c in constraints]
        self.names = [attributes_in(c) for c in constraints]
        self.on_family, self.by_name = _places(self.touched), _places(self.names)

    def held(self, inner: Iterable[int] = (), reason: Mapping[int, str] | None = None) -> set[int]:
        """Families that stay because another one on the same axis goes: heads go, or inner dims if one head is left.

        **Arguments:**

        - `inner`: families of inner dimensions that go in place of their heads.
        - `reason`: families that stay anyway.
        """
        chosen, held = set(inner), set[int]()
        for outer, within in self.families.nested:
            if within in chosen:
                held.add(outer)
            elif outer not in (reason or ()) and len(self.families[outer].units) > 1 and outer not in held:
                held.add(within)
        return held - chosen

    def clusters(self, inner: Iterable[int] = (), reason: Mapping[int, str] | None = None) -> Clustering:
        """Families that lose in step. What no size could follow stays whole, its reason beside those that are given."""
        inner, reason = set(inner), dict(reason or {})
        random = np.random.default_rng(SEED)
        for _ in range(len(self.families) + 1):  # each round but the last gives some family a reason to stay
            active = set(range(len(self.families))) - self.held(inner, reason) - reason.keys()
            found, before = list[Cluster](), len(reason)
            for members in self._joined(active):
                conflict = self._conflict(members, reason, random)
                if conflict is None:
                    steps = math.gcd(*(len(self.families[k].units) for k in members))
                    found.append(Cluster(tuple(sorted(members)), steps))
                else:
                    reason.update(dict.fromkeys(*conflict))
            if len(reason) == before:
                return Clustering(tuple(found), reason)
        raise AssertionError("every round gives a reason to a family that had none")

    def _joined(self, active: set[int]) -> list[set[int]]:
        """Unite active families that rows, attributes or sizes of other axes tie."""
        parent = {k: k for k in active}

        def root(k: int) -> int:
            while parent[k] != k:
                parent[k] = parent[parent[k]]
                k = parent[k]
            return k

        def unite(some: Iterable[int]) -> None:
            roots = [root(k) for k in some if k in active]
            for r in roots[1:]:
                parent[root(r)] = root(roots[0])

        families = self.families
        for units in families.divided:
            unite(families.of_units(units))
        for tie in self.ties:
            sides = [families.of(ids) & active for ids in tie]
            if all(sides):
                unite(set().union(*sides))
        named: dict[Attribute, set[int]] = {}
        sized = [(e, g.ids, k) for g in self.constraints if isinstance(g, Grid) for k, e in enumerate(g.exprs)]
        for expr, ids, axis in sized:
            if isinstance(expr, Attribute):
                named.setdefault(expr, set()).update(families.along(ids, axis) & active)
        for of_name in named.values():
            unite(of_name)
        for expr, ids, axis in sized:
            if isinstance(expr, Term) or axes_in(expr):
                unite(families.along(ids, axis) | self._in(expr, named))
        for c in self.constraints:
            if isinstance(c, Equality):
                unite(self._in(c.left, named) | self._in(c.right, named))
        found: dict[int, set[int]] = {}
        for k in active:
            found.setdefault(root(k), set()).add(k)
        return sorted(found.values(), key=min)

    def _in(self, expr: Expr | None, named: dict[Attribute, set[int]]) -> set[int]:
        found = [set(self.families.along(a.ids, a.axis)) for a in axes_in(expr)]
        found += [named.get(a, set()) for a in attributes_of(expr)]
        return set().union(*found) if found else set()

    def _conflict(
        self, members: set[int], reason: Mapping[int, str], random: np.random.Generator
    ) -> tuple[set[int], str] | None:
        """Which families of a cluster have to stay, and why; None where all can lose in step.

        Found by trying: a random share of every family is taken out, and all sizes are solved for what remains.
        """
        families = self.families
        steps = math.gcd(*(len(families[k].units) for k in members))
        if steps == 1 and len(members) == 1:
            return members, "nothing else like it could stay"
        if steps == 1:
            heads = {outer for outer, within in families.nested if outer in members and within not in reason}
            return heads or members, "axes tied to it in number have no common step"  # without heads, inner dims go
        relevant = self.relevant(members)
        if not relevant:
            return None
        shuffled = [random.permuted(rows, axis=1) for _, rows in by_size([families[k].units for k in members])]
        solver = Solver(relevant, self.dense)
        for step in {1, steps // 2}:
            gone = np.zeros(families.solution.units + 1, dtype=bool)
            for rows in shuffled:
                gone[rows[:, : step * (rows.shape[1] // steps)]] = True
            try:
                solver.solve(lambda ids, gone=gone: np.logical_not(gone[families.units(ids)].any(axis=-1)))
            except SizeConflict as conflict:
                return self._to_blame(conflict.constraint, members), conflict.why
        return None

    def _to_blame(self, constraint: Constraint, members: set[int]) -> set[int]:
        """The families of a cluster whose sizes a constraint is about: its own, or those of its attributes."""
        k = next(i for i, c in enumerate(self.constraints) if c is constraint)
        sharing = (self.by_name[name] for name in self.names[k])
        beside = set[int]().union(*(self.touched[i] for places in sharing for i in places))
        return set(self.touched[k] & members) or beside & members or members

    def _touched(self, constraint: Constraint) -> frozenset[int]:
        """Families of all axes that a constraint is about."""
        arrays = [constraint.ids] if isinstance(constraint, Grid) else []
        exprs = constraint.exprs if isinstance(constraint, Grid) else (constraint.left, constraint.right)
        arrays += [a.ids for e in exprs for a in axes_in(e)]
        return frozenset[int]().union(*(self.families.of(ids) for ids in arrays))

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


def _places(sets: Sequence[Set[_Item]]) -> dict[_Item, list[int]]:
    """For each item the places of the sets that have it."""
    found: dict[_Item, list[int]] = {}
    for k, items in enumerate(sets):
        for item in items:
            found.setdefault(item, []).append(k)
    return found
