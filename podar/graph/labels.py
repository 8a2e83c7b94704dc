"""Atoms, labels and their unification: the algebra that says what must go together (numpy and scipy, no torch)."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix  # pyright: ignore[reportMissingTypeStubs]
from scipy.sparse.csgraph import connected_components  # pyright: ignore[reportMissingTypeStubs]

Ids = NDArray[np.int64]

EMPTY = 0
"""The label of an index that depends on nothing and so always exists."""

OUTER, INNER = 1, 2
"""Roles of the atoms that factor an axis, as heads (outer) and the dimensions within a head (inner) do."""


class Labels:
    """A growing table of labels. A label is a set of atoms: none, one, or the union of two other labels.

    Rules call `fresh`, `outer`, `equal` and `freeze` while a model runs; `solve` then unifies everything at once.
    Labels are integers, and every method is vectorised over arrays of them.
    """

    def __init__(self) -> None:
        self.size = 1
        self.reasons: list[str] = []
        self.roles: list[tuple[int, int, int]] = []
        self.pairs: list[tuple[Ids, Ids, Ids, int]] = []
        self._shapes: dict[tuple[int, int], int] = {}
        self.equalities: list[tuple[Ids, Ids]] = []
        self.frozen: list[tuple[Ids, int]] = []
        self._outer: dict[tuple[bytes, bytes], Ids] = {}
        self._reason_index: dict[str, int] = {}

    def fresh(self, count: int, role: int = 0) -> Ids:
        """`count` new atoms, each a label of its own."""
        ids = np.arange(self.size, self.size + count)
        self.size += count
        if role:
            self.roles.append((self.size - count, self.size, role))
        return ids

    def outer(self, a: Ids, b: Ids) -> Ids:
        """Labels `a[i] ∪ b[j]`, shape (len(a), len(b)): an index that needs both exists only while both do."""
        if not b.any():
            return np.repeat(a[:, None], len(b), axis=1)
        if not a.any():
            return np.repeat(b[None, :], len(a), axis=0)
        key = (a.tobytes(), b.tobytes())
        known = self._outer.get(key)
        if known is not None:
            return known
        left, right = np.broadcast_arrays(a[:, None], b[None, :])
        ids = self.fresh(left.size).reshape(left.shape)
        shape = self._shapes.setdefault((len(a), len(b)), len(self._shapes))
        self.pairs.append((ids.ravel(), left.ravel(), right.ravel(), shape))
        self._outer[key] = ids
        return ids

    def parts(self, ids: Ids) -> tuple[Ids, Ids] | None:
        """The two sides of labels that all come from one `outer`, in the shape of `ids`; None where they do not."""
        lowest = ids.min()
        for own, left, right, _ in reversed(self.pairs):
            if own[0] <= lowest <= own[-1]:
                if ids.max() > own[-1]:
                    return None
                place = ids - own[0]
                return left[place], right[place]
        return None

    def factor(self, grid: Ids, fixed: tuple[bool, ...] | None = None) -> list[Ids]:
        """Give every axis of `grid` atoms of its own, so that `grid[i, j]` becomes the label {H_i, D_j}.

        Axes marked in `fixed` keep their size anyway (a literal decided it) and get none: then rows go together.
        """
        fixed = fixed or (False,) * grid.ndim
        roles = iter(
            [OUTER, *[INNER] * grid.ndim] if sum(n > 1 and not f for n, f in zip(grid.shape, fixed)) > 1 else [0]
        )
        axes = [
            np.zeros(n, dtype=np.int64) if f or n == 1 else self.fresh(n, next(roles))
            for n, f in zip(grid.shape, fixed)
        ]
        whole = axes[0]
        for axis in axes[1:]:
            whole = self.outer(whole, axis).ravel()
        self.equal(grid.ravel(), whole)
        return axes

    def equal(self, a: Ids, b: Ids) -> None:
        """Index by index, `a` and `b` go together."""
        if np.size(a) != np.size(b):
            raise ValueError(f"{np.size(a)} labels cannot equal {np.size(b)}")
        if a is not b:
            self.equalities.append((np.ravel(a), np.ravel(b)))

    def freeze(self, ids: Ids, reason: str) -> None:
        """No index of `ids` may go; `reason` is kept for the user."""
        self.frozen.append((np.ravel(ids), self.reason_index(reason)))

    def reason_index(self, reason: str) -> int:
        """The place of `reason` in `reasons`, added when it is new."""
        index = self._reason_index.setdefault(reason, len(self.reasons))
        if index == len(self.reasons):
            self.reasons.append(reason)
        return index

    def solve(self) -> Solution:
        """Unify all relations recorded so far: connected components, then congruence of the pairs until it rests."""
        unifier = _Unifier(self)
        while unifier.congruence():
            pass
        return unifier.finish()


@dataclass(frozen=True)
class Solution:
    """What the relations come to.

    **Attributes:**

    - `component`: for each label, the class that it belongs to.
    - `support`: (classes, k) units that a class depends on, padded with `units`.
    - `units`: how many units there are: classes that can be removed on their own.
    - `role`: for each unit 0, OUTER or INNER.
    - `first`: for each unit its lowest label; labels grow along an axis, so units are numbered as the axis is.
    - `why`: for each label the index of the reason recorded for it, or a very large number.
    - `links`: the equalities along which reasons spread.
    """

    component: Ids
    support: Ids
    units: int
    role: Ids
    first: Ids
    why: Ids
    links: list[tuple[Ids, Ids]]

    @cached_property
    def reason(self) -> Ids:
        """For each label the index of the reason that freezes it, or -1: the first one among those it equals."""
        linked = _components(len(self.component), self.links)
        spread = np.full(len(self.component), _NONE)
        np.minimum.at(spread, linked, self.why)
        return np.where(spread == _NONE, -1, spread)[linked]

    @cached_property
    def under(self) -> Ids:
        """(k, labels) units under each label, padded with `units`."""
        return np.take(self.support.T, self.component, axis=1)

    def units_of(self, ids: Ids) -> Ids:
        """(*ids.shape, k) units under each of these labels, padded with `units`.

        In memory k comes first: numpy reduces many short rows slowly, a few long ones fast.
        """
        return np.moveaxis(np.take(self.under, ids, axis=1), 0, -1)

    def alive(self, removed: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """For every label, whether it still exists once the units marked in `removed` (length `units`) are gone."""
        gone = np.append(removed, False)
        alive: NDArray[np.bool_] = np.logical_not(gone[self.support.T].any(axis=0))
        return alive[self.component]


class _Unifier:
    """Union of equal labels, kept as one class number a label; pairs are compared by the classes of their parts."""

    def __init__(self, labels: Labels) -> None:
        self.labels = labels
        pairs = labels.pairs or [(_NOTHING, _NOTHING, _NOTHING, 0)]
        self.ids, self.left, self.right = (np.concatenate(sides) for sides in list(zip(*pairs))[:3])
        self.shape = np.repeat([p[3] for p in pairs], [len(p[0]) for p in pairs])
        self.why = np.full(labels.size, _NONE)
        self.links = list(labels.equalities)  # equalities between labels, along which reasons spread
        frozen = [(ids, np.zeros(len(ids), dtype=np.int64)) for ids, _ in labels.frozen]
        for ids, index in labels.frozen:
            self.why[ids] = np.minimum(self.why[ids], index)
        self.classes = _components(labels.size, self.links + frozen)

    def congruence(self) -> bool:
        """One round of what pairs force: {a, b} = {c, d} of one factorisation means a = c and b = d."""
        self.new: list[tuple[Ids, Ids]] = []
        if not len(self.ids):
            return False
        everything = np.ones(len(self.ids), dtype=bool)
        empty = self.classes[EMPTY]
        own, left, right = (self.classes[part] for part in (self.ids, self.left, self.right))
        frozen = own == empty
        for part in (self.left, self.right):
            self.why[part[frozen]] = np.minimum(self.why[part[frozen]], self.why[self.ids[frozen]])
            self.freeze(part, frozen)
        self.equal(self.ids, self.right, left == empty)
        self.equal(self.ids, self.left, (right == empty) | (left == right))
        real = ~frozen & (left != empty) & (right != empty) & (left != right)
        itself = real & ((own == left) | (own == right))
        for part in (self.ids, self.left, self.right):
            self.freeze(part, itself, "an axis is factored into itself")
        where = np.flatnonzero(real & ~itself)
        if len(where):
            # Within one class every pair is compared with the first; the same set is one class wherever it was built.
            order, head = _leaders(where, own[where])
            apart = (left[order] != left[head]) | (right[order] != right[head])
            same = self.shape[order] == self.shape[head]
            self.equal(self.left[order], self.left[head], apart & same)
            self.equal(self.right[order], self.right[head], apart & same)
            for part in (self.left, self.right):
                for side in (order, head):
                    self.freeze(part[side], apart & ~same, "one axis is factored in two ways that do not fit together")
            twin, first = _leaders(where, left[where] * (self.classes.max() + 1) + right[where])
            self.equal(self.ids[twin], self.ids[first], everything[: len(twin)])
        if self.new:
            merged = [(self.classes[a], self.classes[b]) for a, b in self.new]
            self.classes = _components(int(self.classes.max()) + 1, merged)[self.classes]
        return bool(self.new)

    def equal(self, a: Ids, b: Ids, where: NDArray[np.bool_]) -> None:
        where = where & (self.classes[a] != self.classes[b])
        if where.any():
            self.new.append((a[where], b[where]))
            self.links.append((a[where], b[where]))

    def freeze(self, a: Ids, where: NDArray[np.bool_], reason: str | None = None) -> None:
        where = where & (self.classes[a] != self.classes[EMPTY])
        if where.any():
            self.new.append((a[where], np.zeros(int(where.sum()), dtype=np.int64)))
            if reason is not None:
                self.why[a[where]] = np.minimum(self.why[a[where]], self.labels.reason_index(reason))

    def finish(self) -> Solution:
        """Number the units and express every class by them."""
        labels, classes = self.labels, self.classes
        count, empty = int(classes.max()) + 1, classes[EMPTY]
        own, left, right = (classes[part] for part in (self.ids, self.left, self.right))
        pairs = np.flatnonzero((own != empty) & (own != left) & (own != right))
        defined, chosen = np.unique(own[pairs], return_index=True)
        left, right = left[pairs][chosen], right[pairs][chosen]

        role, first = np.zeros(count, dtype=np.int64), np.full(count, labels.size)
        for start, stop, value in labels.roles:
            np.maximum.at(role, classes[start:stop], value)
        np.minimum.at(first, classes, np.arange(labels.size))
        root = np.ones(count, dtype=bool)
        root[defined] = root[empty] = False
        roots = np.flatnonzero(root)
        roots = roots[np.argsort(first[roots], kind="stable")]
        units = len(roots)
        support = np.full((count, 1), units)
        support[roots, 0] = np.arange(units)
        while len(defined):
            joined = np.sort(np.concatenate([support[left], support[right]], axis=1), axis=1)
            joined[:, 1:][joined[:, 1:] == joined[:, :-1]] = units
            joined.sort(axis=1)
            width = max(1, int((joined < units).sum(axis=1).max()))
            grown = np.full((count, width), units)
            grown[:, : support.shape[1]] = support
            grown[defined] = joined[:, :width]
            if np.array_equal(grown, support):
                break
            support = grown
        return Solution(classes, np.asfortranarray(support), units, role[roots], first[roots], self.why, self.links)


_NONE = np.iinfo(np.int64).max
_NOTHING: Ids = np.zeros(0, dtype=np.int64)


def _components(n: int, edges: list[tuple[Ids, Ids]]) -> Ids:
    if not edges:
        return np.arange(n)
    a, b = (np.concatenate([edge[k] for edge in edges]) for k in range(2))
    graph = coo_matrix((np.ones(len(a), dtype=np.int8), (a, b)), shape=(n, n)).tocsr()
    return connected_components(graph, directed=False)[1].astype(np.int64)


def _leaders(items: Ids, keys: Ids) -> tuple[Ids, Ids]:
    """`items` sorted by key, and beside each the first item of the same key."""
    order = np.argsort(keys, kind="stable")
    start = np.r_[True, keys[order][1:] != keys[order][:-1]]
    first = np.maximum.accumulate(np.where(start, np.arange(len(order)), 0))
    return items[order], items[order][first]
