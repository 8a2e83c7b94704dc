"""In which steps the parts of a model can shrink, in what order, and to which widths."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from podar.errors import PodarError
from podar.graph.clusters import Cluster
from podar.graph.families import by_size
from podar.graph.graph import Graph
from podar.graph.groups import Group
from podar.model.patterns import patterns
from podar.pruning.marginal import by_error
from podar.pruning.naming import asked_shares, outside, protected
from podar.pruning.options import AUTO, Options

_NOTHING = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True)
class Allocation:
    """Which units go, and what is left of each family."""

    removed: NDArray[np.bool_]
    share: NDArray[np.float64]
    clusters: tuple[Cluster, ...]


class Moves:
    """Each cluster shrinks in equal steps, least important units first; this knows their order and what they cost."""

    def __init__(
        self,
        graph: Graph,
        scores: NDArray[np.float64],
        options: Options,
        multiple_of: int | str,
    ) -> None:
        self.graph, self.multiple_of, self.liked = graph, multiple_of, options.widths
        families = graph.families
        inner, asked = asked_shares(graph, options.ratios or {})
        frozen = {**outside(graph, patterns(options.only)), **protected(graph, patterns(options.protect))}
        if inner or frozen:
            self.clusters, reason = graph.clustered(inner, frozen)
            stuck = next((reason[f] for f in inner if f in reason and f not in frozen), None)
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
        """For each cluster which numbers of kept steps (0 … steps) are allowed: never 0, always all of them."""
        own: list[list[Group]] = [[] for _ in self.clusters]
        cluster_of = {f: k for k, cluster in enumerate(self.clusters) for f in cluster.families}
        for group in self.groups:
            if group.families[0] in cluster_of:
                own[cluster_of[group.families[0]]].append(group)
        return [self.widths(k, own[k], self.multiple_of) for k in range(len(self.clusters))]

    def widths(self, cluster: int, groups: Iterable[Group], multiple_of: int | str) -> NDArray[np.bool_]:
        """Which numbers of kept steps give every group of a cluster a width that is such a multiple."""
        steps = self.clusters[cluster].steps
        kept = np.arange(steps + 1)
        good = kept >= self.least[cluster]
        for group in groups:
            inner = group.kind == "inner"  # a head's width is its own
            if (inner and multiple_of != AUTO) or multiple_of == 1:
                continue
            dense = group.size if inner else group.size * group.widths
            liked = self.liked if dense >= 2 * self.liked else max(1, self.liked // 2)
            multiple = multiple_of if isinstance(multiple_of, int) else liked
            good &= dense // steps * kept % multiple == 0
        good[steps] = True
        return good

    def exact(self) -> Moves:
        """The same moves with any width allowed."""
        other = copy.copy(self)
        other.multiple_of = 1
        other.__dict__.pop("allowed", None)
        other.__dict__.pop("nearest", None)
        return other

    @cached_property
    def nearest(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The nearest allowed number for each number of kept steps, clusters in a row, and where each begins."""
        tables = []
        for allowed in self.allowed:
            options = np.flatnonzero(allowed)
            # Of two numbers that are equally near, the larger one is taken.
            distance = np.abs(options - np.arange(len(allowed))[:, None]) - 1e-6 * options
            tables.append(options[np.argmin(distance, axis=1)])
        sizes = [len(t) for t in tables]
        return np.concatenate(tables), np.cumsum([0, *sizes[:-1]])

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        return self.graph.groups if self.clusters is self.graph.clusters else self.graph.groups_of(self.clusters)

    def settle(self, kept: NDArray[np.int64]) -> NDArray[np.int64]:
        """The nearest allowed number of steps for every cluster, with what the user fixed."""
        result = np.maximum(kept, self.least)
        result[list(self.fixed)] = list(self.fixed.values())
        if self.multiple_of == 1 or not self.clusters:  # any number but 0 is allowed
            return result
        table, starts = self.nearest
        rounded = table[starts + result]
        if self.multiple_of == AUTO:  # what the user fixed is not rounded
            rounded[list(self.fixed)] = list(self.fixed.values())
        return rounded

    def share(self, kept: NDArray[np.int64] | NDArray[np.float64]) -> NDArray[np.float64]:
        share = np.ones(len(self.graph.families))
        for k, cluster in enumerate(self.clusters):
            share[list(cluster.families)] = kept[k] / cluster.steps
        return share

    def allocation(self, kept: NDArray[np.int64]) -> Allocation:
        removed = np.zeros(self.graph.solution.units, dtype=bool)
        gone = [_NOTHING]
        for cluster, left in zip(self.clusters, kept.tolist()):
            orders = [self.order[f] for f in cluster.families]
            gone += [order[: (cluster.steps - left) * (len(order) // cluster.steps)] for order in orders]
        removed[np.concatenate(gone)] = True
        return Allocation(removed, self.share(kept), tuple(self.clusters))

    def sequence(
        self, scope: str, cost: Callable[[NDArray[np.int64]], float] | None = None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All moves in the order in which they go: cluster numbers, and units removed by each.

        `cost`: of the steps that each cluster keeps, which "error" divides by; None counts units.
        """
        cluster = np.repeat(np.arange(len(self.clusters)), np.maximum(self.steps - 1, 0))
        if not len(cluster):
            return cluster, cluster
        place = np.concatenate([np.arange(1, s) for s in self.steps])
        units = np.array([sum(len(self.graph.families[f].units) for f in c.families) for c in self.clusters])
        each = units // np.maximum(self.steps, 1)
        if scope == "error":
            cluster = by_error(self, cost or (lambda kept: float((each * kept).sum())))
            return cluster, each[cluster]
        if scope == "local":
            key = place / self.steps[cluster]
        else:
            key = np.concatenate([r[:-1] for r in self.ranks])
            if scope == "isomorphic":
                key = _rank_within(key, np.array(self.shapes())[cluster])
        order = np.lexsort((place, cluster, key))
        return cluster[order], each[cluster[order]]

    def shapes(self) -> list[int]:
        """A number for each cluster that clusters of the same structure share."""
        known: dict[tuple[object, ...], int] = {}
        found = []
        for cluster in self.clusters:
            members = tuple(
                sorted(
                    (self.graph.families[f].role, n.rpartition(".")[2], d, self.graph.shapes[n])
                    for f in cluster.families
                    for n, d in self.graph.families.members[f]
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


def _least(graph: Graph, cluster: Cluster) -> int:
    """How many of its steps a cluster keeps at least: one, or as many as a variance over it needs."""
    least = 1
    for ids, count in graph.record.least:
        for k in graph.families.of(ids) & set(cluster.families):
            units = len(graph.families[k].units)
            each = max(1, ids.size // units)  # indices that one unit has on the axis
            least = max(least, math.ceil(math.ceil(count / each) * cluster.steps / units))
    return min(cluster.steps, least)


def kept_steps(moves: Moves, removed: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each cluster the steps that are left after these moves (cluster numbers)."""
    return moves.steps - np.bincount(removed, minlength=len(moves.steps))
