"""Solves the sizes: given which labels remain, which value each module attribute gets, or which size cannot follow."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from podar.graph.by_array import ByArray
from podar.graph.labels import Ids
from podar.graph.sizes import (
    OPERATIONS,
    Attribute,
    Axis,
    Constraint,
    Equality,
    Expr,
    Number,
    Size,
    Term,
    attributes_in,
    attributes_of,
)

Alive = NDArray[np.bool_]

Equation = tuple[Expr, Expr, Constraint]
"""Both sides, which must be equal, and the constraint that says so."""


class SizeConflict(Exception):
    """A size cannot be solved; says which constraint and why."""

    def __init__(self, constraint: Constraint, why: str) -> None:
        super().__init__(why)
        self.constraint = constraint
        self.why = why


def grid_shape(alive: Alive) -> tuple[int, ...] | None:
    """Sizes that remain of a block, or None when its rows no longer have equal counts."""
    if alive.ndim == 1:
        count = int(np.count_nonzero(alive))
        return (count,) if count else None
    shape = []
    for axis in range(alive.ndim):
        present = alive.any(axis=tuple(range(axis + 1, alive.ndim))) if axis + 1 < alive.ndim else alive
        counts = present.sum(axis=axis).ravel()
        counts = counts[counts > 0]
        if not len(counts) or (counts != counts[0]).any():
            return None
        shape.append(int(counts[0]))
    return tuple(shape)


SCANNED = 1024
"""Up to this size all values of an unknown are tried one by one."""


class Solver:
    """Finds attribute values that make every constraint true for the labels that remain."""

    def __init__(self, constraints: Iterable[Constraint], dense: dict[Attribute, int]) -> None:
        self.constraints = list(constraints)
        self.dense = dense
        self.counted = ByArray[tuple[int, ...] | None](lambda ids: ids.shape)  # until `solve` says what remains

    def solve(self, alive: Callable[[Ids], Alive]) -> dict[Attribute, int]:
        """New values of the attributes that must change; `alive(ids)` says which labels remain.

        **Raises:** `SizeConflict`: a literal size would have to change, two uses of an attribute disagree, or rows
        become uneven.
        """
        self.counted = ByArray[tuple[int, ...] | None](lambda ids: grid_shape(alive(ids)))
        equations: list[Equation] = []
        for constraint in self.constraints:
            if isinstance(constraint, Equality):
                equations.append((constraint.left, constraint.right, constraint))
                continue
            shape = self.counted(constraint.ids)
            if shape is None:
                raise SizeConflict(constraint, f"the parts of one axis would lose unequal counts at {constraint.where}")
            equations += [(e, n, constraint) for e, n in zip(constraint.exprs, shape) if e is not None]
        values: dict[Attribute, int] = {}
        # An attribute that names a size outright comes before one inside a formula, which floors can leave ambiguous.
        waiting = sorted(equations, key=lambda e: not (isinstance(e[0], Attribute) or isinstance(e[1], Attribute)))
        names = set[Attribute]().union(*(attributes_of(left) | attributes_of(right) for left, right, _ in equations))
        for _ in range(len(equations) + len(names)):  # each round settles an equation or an attribute
            waiting = self.round(waiting, values)
            if not waiting:
                break
        return {a: v for a, v in values.items() if v != self.dense[a]}

    def round(self, waiting: list[Equation], values: dict[Attribute, int]) -> list[Equation]:
        """Check the equations that have no unknown, solve those that have one, and return the others."""
        later: list[Equation] = []
        for left, right, constraint in waiting:
            unknown = (attributes_of(left) | attributes_of(right)) - values.keys()
            if len(unknown) == 1:
                attribute = next(iter(unknown))
                found = self.invert(left, right, values, attribute)
                if found is None:
                    raise SizeConflict(constraint, self.complaint(left, right, constraint, values))
                values[attribute] = found
            elif unknown:
                later.append((left, right, constraint))
            elif self.value(left, values) != self.value(right, values):
                raise SizeConflict(constraint, self.complaint(left, right, constraint, values))
        if later and len(later) == len(waiting):
            # Nothing names these attributes alone: keep one as it is and go on.
            left, right, _ = later[0]
            keep = min((attributes_of(left) | attributes_of(right)) - values.keys(), key=str)
            values[keep] = self.dense[keep]
        return later

    def apart(self, solved: dict[Attribute, int], differences: Iterable[tuple[Size, Size]]) -> dict[Attribute, int]:
        """What the model compared and found different must stay different: a branch of its code depends on it.

        Where one side is an attribute that nothing else sizes, it follows the other side in proportion.

        **Raises:** `SizeConflict`: both sides would be equal, and both are needed as they are.
        """
        solved = dict(solved)
        used = set[Attribute]().union(*(attributes_in(c) for c in self.constraints))
        for one, two in differences:
            if self.value(one.expr, solved) != self.value(two.expr, solved):
                continue
            for free, other in ((one, two), (two, one)):
                if isinstance(free.expr, Attribute) and free.expr not in used:
                    now = self.value(other.expr, solved)
                    solved[free.expr] = max(1, round(int.__int__(free) * now / max(int.__int__(other), 1)))
                    break
            if self.value(one.expr, solved) == self.value(two.expr, solved):
                why = f"{one.expr} and {two.expr} would become equal, which the model treats as another case"
                raise SizeConflict(Equality(one.expr, two.expr, ""), why)
        return solved

    def value(self, expr: Expr, values: dict[Attribute, int]) -> int:
        if isinstance(expr, Term):
            right = self.value(expr.right, values)
            if right == 0 and expr.symbol in ("//", "%"):
                return -1
            return OPERATIONS[expr.symbol](self.value(expr.left, values), right)
        if isinstance(expr, Attribute):
            return values.get(expr, self.dense[expr])
        if isinstance(expr, Axis):
            shape = self.counted(expr.ids)
            return -1 if shape is None else shape[expr.axis]
        return expr

    def invert(self, left: Expr, right: Expr, values: dict[Attribute, int], unknown: Attribute) -> int | None:
        """The value of `unknown` that makes both sides equal: its own first, so that nothing changes needlessly."""
        for side, other in ((left, right), (right, left)):
            if side == unknown and unknown not in attributes_of(other):
                return self.value(other, values)
        dense = self.dense[unknown]

        def excess(candidate: int) -> int:
            trial = values | {unknown: candidate}
            return self.value(left, trial) - self.value(right, trial)

        if excess(dense) == 0:
            return dense
        if dense > SCANNED:  # formulas of sizes mostly grow with them, or shrink
            for sign in (1, -1):
                found = bisect.bisect_left(range(1, dense), 0, key=lambda c: sign * excess(c)) + 1
                if found < dense and excess(found) == 0:
                    return found
        return next((c for c in range(1, min(dense, SCANNED + 1)) if excess(c) == 0), None)

    def complaint(self, left: Expr, right: Expr, constraint: Constraint, values: dict[Attribute, int]) -> str:
        wanted, got = self.value(right, values), self.value(left, values)
        if isinstance(constraint, Number):
            return f"a size is used as a number at {constraint.where}: {left} would become {got}"
        if isinstance(left, int):
            return f"hard-coded size {left} at {constraint.where}"
        return f"{left} would be {got} where {wanted} is needed, at {constraint.where}"
