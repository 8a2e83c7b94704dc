"""Targets and budgets: how much of which group goes."""

from __future__ import annotations

import bisect
import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from podar.errors import PodarError, UsageError, nearest
from podar.graph.families import Cluster, by_size
from podar.graph.graph import Graph, Group

TOLERANCE = 0.03
"""A target is met when |reached − target| is at most this share of dense."""

_NOTHING = np.zeros(0, dtype=np.int64)
SCOPES = ("global", "local", "isomorphic")
KINDS = ("channels", "params", "macs", "bytes", "memory")
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Target:
    """What must remain: `value` is a fraction of dense, or absolute (parameters, MACs, bytes)."""

    kind: str
    value: float
    absolute: bool = False

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"


def parse_target(target: str | Mapping[str, float | str]) -> Target:
    """Read "macs=0.5", {"macs": 0.5}, "channels=0.5", "params=2M", "memory=300MB".

    A number between 0 and 1 is the fraction kept; with a unit (k, M, G, B) it is absolute.

    Raises:
        UsageError: not of that form, a fraction that is not between 0 and 1, or a target of 1, which asks for nothing.
    """
    if isinstance(target, Mapping):
        if len(target) != 1:
            raise UsageError(f"one target at a time, such as {{'macs': 0.5}}; got {len(target)}")
        kind, text = next(iter(target.items()))
        text = str(text)
    else:
        kind, equals, text = str(target).partition("=")
        if not equals:
            raise UsageError(
                f"target {target!r} is not of the form macs=0.5; say what must remain of {', '.join(KINDS)}"
            )
    kind, text = kind.strip(), text.strip()
    if kind not in KINDS:
        close = nearest(kind, KINDS)
        raise UsageError(
            f"no target is named {kind!r}; " + (f"did you mean {close!r}?" if close else f"known: {', '.join(KINDS)}")
        )
    match = re.fullmatch(r"([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([kKmMgGtT]?)([bB]?)", text)
    if match is None:
        raise UsageError(
            f"target {kind}={text!r} is not a number; give a fraction between 0 and 1 (0.5) or an amount (2M)"
        )
    value = float(match[1])
    if match[2] or match[3]:
        if kind == "channels":
            raise UsageError(f"target channels={text!r}: channels are given as a fraction between 0 and 1")
        if value <= 0:
            raise UsageError(f"target {kind}={text!r} must be above 0")
        return Target(kind, value * _UNITS[match[2].lower()], absolute=True)
    if value == 1:
        raise UsageError(f"target {kind}=1 keeps everything: there is nothing to do")
    if not 0 < value < 1:
        raise UsageError(f"target {kind}={text} must be between 0 and 1 (the fraction kept), or have a unit such as 2M")
    return Target(kind, value)


@dataclass(frozen=True)
class Allocation:
    """Which units go, and what is left of each family."""

    removed: NDArray[np.bool_]
    share: NDArray[np.float64]
    clusters: tuple[Cluster, ...]


def allocate(
    graph: Graph,
    target: Target,
    scores: NDArray[np.float64],
    *,
    scope: str = "global",
    ratios: Mapping[str, float] | None = None,
    protect: Iterable[str] = (),
    multiple_of: int = 1,
) -> Allocation:
    """Choose units to remove so that the target is met.

    Args:
        graph: the traced model.
        target: what must remain.
        scores: importance of each unit; within a family the lowest go first.
        scope: "local" cuts every group alike; "global" compares units across all groups, by their importance relative
            to their group's mean; "isomorphic" compares groups of one shape only (Fang et al., 2024).
        ratios: fractions kept by group (pattern over group or parameter names); they override the target there.
        protect: patterns of modules or parameters that keep every slice.
        multiple_of: widths are rounded to multiples of this.

    Raises:
        UsageError: an unknown scope, or a pattern that matches nothing.
        PodarError: the target cannot be reached; the message says the nearest value that can.
    """
    if scope not in SCOPES:
        raise UsageError(f"no scope is named {scope!r}; known: {', '.join(SCOPES)}")
    if not isinstance(multiple_of, int) or multiple_of < 1:
        raise UsageError(f"multiple_of is {multiple_of!r}; give a whole number of at least 1")
    moves = _Moves(graph, scores, dict(ratios or {}), tuple(protect), multiple_of)
    kept = _channels(moves, target.value, scope) if target.kind == "channels" else _budget(moves, target, scope)
    return moves.allocation(kept)


class _Moves:
    """Each cluster shrinks in equal steps, least important units first; this knows their order and what they cost."""

    def __init__(
        self,
        graph: Graph,
        scores: NDArray[np.float64],
        ratios: dict[str, float],
        protect: tuple[str, ...],
        multiple_of: int,
    ) -> None:
        self.graph, self.multiple_of = graph, multiple_of
        families = graph.ties.families
        inner, asked = _asked(graph, ratios)
        frozen = _protected(graph, protect)
        if inner or frozen:
            before = dict(graph.ties.reason)
            self.clusters = graph.ties.clusters(inner, frozen)
            stuck = next((graph.ties.reason[f] for f in inner if f in graph.ties.reason and f not in frozen), None)
            graph.ties.reason = before
            if stuck is not None:
                raise PodarError(f"ratios name inner dimensions that cannot go ({stuck}): leave them out")
        else:
            self.clusters = graph.clusters
        self.order = _ordered([f.units for f in families], scores)
        self.steps = np.array([c.steps for c in self.clusters], dtype=np.int64)
        self.least = np.array([_least(graph, c) for c in self.clusters], dtype=np.int64)
        self.scores = scores
        self.fixed: dict[int, int] = {}
        for k, cluster in enumerate(self.clusters if asked else ()):
            wanted = [asked[f] for f in cluster.families if f in asked]
            if wanted:
                self.fixed[k] = min(
                    cluster.steps, max(int(self.least[k]), math.ceil(min(wanted) * cluster.steps - 1e-9))
                )

    @cached_property
    def ranks(self) -> list[NDArray[np.float64]]:
        """Importance of each move of each cluster: the mean over its families, relative to each family's mean."""
        if not self.clusters:
            return []
        families = [f for c in self.clusters for f in c.families]
        sizes = np.array([len(self.order[f]) for f in families])
        starts = np.cumsum(sizes) - sizes
        ordered = self.scores[np.concatenate([self.order[f] for f in families])]
        means = np.add.reduceat(ordered, starts) / sizes
        relative = ordered / np.repeat(np.where(means > 0, means, 1), sizes)
        counts = np.array([len(c.families) for c in self.clusters])
        steps = np.repeat(self.steps, counts)  # of each family
        first = np.repeat(np.cumsum(self.steps) - self.steps, counts)  # move of its cluster
        place = np.arange(len(ordered)) - np.repeat(starts, sizes)
        moves = np.repeat(first, sizes) + place * np.repeat(steps, sizes) // np.repeat(sizes, sizes)
        share = np.repeat(steps / (sizes * np.repeat(counts, counts)), sizes)
        ranks = np.asarray(np.bincount(moves, relative * share, int(self.steps.sum())), dtype=np.float64)
        return np.split(ranks, np.cumsum(self.steps)[:-1])

    @cached_property
    def allowed(self) -> list[NDArray[np.bool_]]:
        """For each cluster which numbers of kept steps do."""
        return [self._allowed(c, least) for c, least in zip(self.clusters, self.least.tolist())]

    def _allowed(self, cluster: Cluster, least: int) -> NDArray[np.bool_]:
        """Which numbers of kept steps (0 … steps) give widths that are multiples of what the runtime likes."""
        kept = np.arange(cluster.steps + 1)
        good = kept >= least
        if self.multiple_of > 1:
            for group in self.groups:
                if group.families[0] in cluster.families and group.kind != "inner":
                    width = group.size * group.widths // cluster.steps * kept
                    good &= (width % self.multiple_of == 0) | (kept == cluster.steps)
        good[cluster.steps] = True
        return good

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        return self.graph.groups if self.clusters is self.graph.clusters else self.graph.groups_of(self.clusters)

    def settle(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """The nearest allowed number of steps for every cluster, with what the user fixed."""
        result = np.maximum(kept, self.least)
        if self.multiple_of == 1:  # any number but none does
            result[list(self.fixed)] = list(self.fixed.values())
            return result
        for k, allowed in enumerate(self.allowed):
            if k in self.fixed:
                result[k] = self.fixed[k]
            if not allowed[result[k]]:
                options = np.flatnonzero(allowed)
                result[k] = options[np.argmin(np.abs(options - result[k]) - 1e-6 * options)]
        return result

    def share(self, kept: NDArray[np.int64]) -> NDArray[np.float64]:
        share = np.ones(len(self.graph.ties.families))
        for k, cluster in enumerate(self.clusters):
            share[list(cluster.families)] = kept[k] / cluster.steps
        return share

    def cost(self, kind: str, kept: NDArray[np.int64]) -> float:
        return self.graph.costs.value(kind, self.share(kept))

    def allocation(self, kept: NDArray[np.int64]) -> Allocation:
        removed = np.zeros(self.graph.solution.units, dtype=bool)
        gone = [_NOTHING]
        for cluster, left in zip(self.clusters, kept.tolist()):
            orders = [self.order[f] for f in cluster.families]
            gone += [order[: (cluster.steps - left) * (len(order) // cluster.steps)] for order in orders]
        removed[np.concatenate(gone)] = True
        return Allocation(removed, self.share(kept), tuple(self.clusters))

    def sequence(self, scope: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All moves in the order in which they go: cluster numbers, and units removed by each."""
        cluster = np.repeat(np.arange(len(self.clusters)), np.maximum(self.steps - 1, 0))
        if not len(cluster):
            return cluster, cluster
        place = np.concatenate([np.arange(1, s) for s in self.steps])
        if scope == "local":
            key = place / self.steps[cluster]
        else:
            key = np.concatenate([r[:-1] for r in self.ranks])
            if scope == "isomorphic":
                key = _rank_within(key, np.array(self.shapes())[cluster])
        units = np.array([sum(len(self.graph.ties.families[f].units) for f in c.families) for c in self.clusters])
        order = np.lexsort((place, cluster, key))
        return cluster[order], (units // np.maximum(self.steps, 1))[cluster[order]]

    def shapes(self) -> list[int]:
        """A number for each cluster that clusters of the same structure share."""
        known: dict[tuple[object, ...], int] = {}
        found = []
        for cluster in self.clusters:
            members = tuple(
                sorted(
                    (self.graph.ties.families[f].role, n.rpartition(".")[2], d, self.graph.shapes[n])
                    for f in cluster.families
                    for n, d in self.graph._members[f]
                )
            )
            found.append(known.setdefault((cluster.steps, members), len(known)))
        return found


def _ordered(families: list[NDArray[np.int64]], scores: NDArray[np.float64]) -> list[NDArray[np.int64]]:
    """The units of each family, least important first."""
    ordered = list(families)
    for places, units in by_size(families):
        for k, own in zip(places, np.take_along_axis(units, _argsort(scores[units]), axis=1)):
            ordered[k] = own
    return ordered


def _argsort(rows: NDArray[np.float64]) -> NDArray[np.int64]:
    """The order within each row. A stable sort takes three times as long, and only equal values need one."""
    order = np.argsort(rows, axis=1)
    found = np.take_along_axis(rows, order, axis=1)
    return np.argsort(rows, axis=1, kind="stable") if (found[:, 1:] == found[:, :-1]).any() else order


def _rank_within(key: NDArray[np.float64], classes: NDArray[np.int64]) -> NDArray[np.float64]:
    """The place of each move among those of its class, between 0 and 1."""
    order = np.lexsort((key, classes))
    sizes = np.bincount(classes)
    starts = np.r_[0, np.cumsum(sizes)[:-1]]
    rank = np.empty(len(key))
    rank[order] = (np.arange(len(key)) - starts[classes[order]] + 1) / sizes[classes[order]]
    return rank


def _channels(moves: _Moves, fraction: float, scope: str) -> NDArray[np.int64]:
    """`ceil(fraction · n)` of every group (local), or that total over all groups with at least one in each."""
    if scope == "local":
        return moves.settle(np.ceil(fraction * moves.steps - 1e-9).astype(np.int64))
    cluster, units = moves.sequence(scope)
    total = sum(g.size - math.ceil(fraction * g.size - 1e-9) for g in moves.groups if not g.held)
    gone = np.searchsorted(np.cumsum(units), total, side="right")
    return moves.settle(_kept(moves, cluster[:gone]))


def _kept(moves: _Moves, removed: NDArray[np.int64]) -> NDArray[np.int64]:
    return moves.steps - np.bincount(removed, minlength=len(moves.steps))


def _budget(moves: _Moves, target: Target, scope: str) -> NDArray[np.int64]:
    """Remove in order until the cost falls to the target, then mend single steps for what rounding left."""
    dense = moves.graph.costs.value(target.kind, np.ones(len(moves.graph.ties.families)))
    goal = target.value if target.absolute else target.value * dense
    if target.absolute and goal >= dense:
        raise UsageError(f"target {target}: the model has {dense:,.0f} already, there is nothing to do")
    order, _ = moves.sequence(scope)

    def cost(kept: NDArray[np.int64]) -> float:
        return moves.cost(target.kind, kept)

    def off(kept: NDArray[np.int64]) -> float:
        return abs(cost(kept) - goal)

    def around(state: Callable[[int], NDArray[np.int64]], moves_there: int) -> list[NDArray[np.int64]]:
        """The last state above the goal and the first one that is not."""
        low = bisect.bisect_left(range(moves_there), -goal, key=lambda n: -cost(state(n)))
        return [state(n) for n in sorted({max(low - 1, 0), low})]

    options = around(lambda n: moves.settle(_kept(moves, order[:n])), len(order))
    kept = min(options, key=off)
    close = TOLERANCE * dense / 4
    if off(kept) > close:  # one move costs that much: on either side of it the others may go further
        large = options[0] != options[-1]
        others = order[~large[order]]
        for option in list(options):

            def beside(n: int, option: NDArray[np.int64] = option) -> NDArray[np.int64]:
                return np.where(large, option, moves.settle(_kept(moves, others[:n])))

            options += around(beside, len(others))
        kept = min(options, key=off)
    kept = _mend(moves, kept, goal, close, cost)
    reached = cost(kept)
    if abs(reached - goal) > TOLERANCE * dense:
        held = ", protected layers" if moves.fixed or moves.clusters is not moves.graph.clusters else ""
        raise PodarError(
            f"target {target} cannot be reached: the nearest is {target.kind}={reached / dense:.3f} of dense "
            f"({reached:,.0f}); the rest is in frozen axes{held} and in widths that cannot be split further"
        )
    return kept


def _mend(
    moves: _Moves,
    kept: NDArray[np.int64],
    goal: float,
    close: float,
    cost: Callable[[NDArray[np.int64]], float],
) -> NDArray[np.int64]:
    """Take or give back single steps while that brings the cost nearer to the goal."""
    now = cost(kept)
    for _ in range(64):
        if abs(now - goal) <= close:
            break
        best = None
        for k in range(len(kept)):
            if k in moves.fixed:
                continue
            options = np.flatnonzero(moves.allowed[k])
            options = options[options < kept[k]][-1:] if now > goal else options[options > kept[k]][:1]
            for option in options:
                trial = kept.copy()
                trial[k] = option
                value = cost(trial)
                if abs(value - goal) < abs(now - goal) and (best is None or abs(value - goal) < best[0]):
                    best = (abs(value - goal), trial, value)
        if best is None:
            break
        kept, now = best[1], best[2]
    return kept


def _least(graph: Graph, cluster: Cluster) -> int:
    """How many of its steps a cluster keeps at least: one, or as many as a variance over it needs."""
    least = 1
    for ids, count in graph.record.least:
        for k in graph.ties.families_in(ids) & set(cluster.families):
            units = len(graph.ties.families[k].units)
            each = max(1, ids.size // units)  # indices that one unit has on the axis
            least = max(least, math.ceil(math.ceil(count / each) * cluster.steps / units))
    return min(cluster.steps, least)


def _asked(graph: Graph, ratios: dict[str, float]) -> tuple[set[int], dict[int, float]]:
    """Families whose share the user gave; inner dimensions named that way go in place of their heads."""
    asked: dict[int, float] = {}
    inner: set[int] = set()
    for pattern, fraction in ratios.items():
        if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
            raise UsageError(f"ratios[{pattern!r}] is {fraction!r}; give the fraction kept, above 0 and at most 1")
        named = [g for g in graph.groups if fnmatch.fnmatchcase(g.name, pattern)]
        chosen = named or [g for g in graph.groups if not g.held and _owns(g, graph, pattern)]
        if not chosen:
            names = [g.name for g in graph.groups]
            close = nearest(pattern, names)
            raise UsageError(
                f"ratios names {pattern!r}, which no group matches" + (f"; did you mean {close!r}?" if close else "")
            )
        if any(not g.held for g in chosen):
            chosen = [g for g in chosen if not g.held]
        for group in chosen:
            asked.update(dict.fromkeys(group.families, float(fraction)))
            if group.held:
                inner.update(group.families)
    return inner, asked


def _owns(group: Group, graph: Graph, pattern: str) -> bool:
    """Whether a pattern names a module or parameter whose outputs the group is."""
    producers = [n for n, d in group.members if d == 0]
    return any(fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n.rpartition(".")[0], pattern) for n in producers)


def _protected(graph: Graph, protect: tuple[str, ...]) -> dict[int, str]:
    frozen: dict[int, str] = {}
    for pattern, names in graph.matching(protect).items():
        if not names:
            close = nearest(pattern, {n.rpartition(".")[0] for n in graph.aliases})
            raise UsageError(
                f"protect names {pattern!r}, which no layer matches" + (f"; did you mean {close!r}?" if close else "")
            )
        for name in names:
            for family in graph._families_of(name):
                frozen.setdefault(family, f"protected by {pattern!r}")
    return frozen
