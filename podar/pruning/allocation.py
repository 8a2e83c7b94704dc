"""Targets and budgets: how much of which group goes."""

from __future__ import annotations

import bisect
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from podar.errors import PodarError, UsageError, nearest
from podar.graph.graph import Graph
from podar.model.patterns import patterns
from podar.pruning.moves import Allocation, Moves, kept_steps
from podar.pruning.options import AUTO, SCOPES, Options

TOLERANCE = 0.03
"""A target is met when |reached − target| is at most this share of dense, below a tenth of dense 0.3 of the target."""

KINDS = ("channels", "params", "macs", "bytes", "memory")
_UNITS = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Target:
    """What must remain: `value` is a fraction of dense, or absolute (parameters, MACs, bytes).

    `dense` is what the whole model costs, where the one that is cut is only a part of it.
    """

    kind: str
    value: float
    absolute: bool = False
    dense: float | None = None

    def __str__(self) -> str:
        return f"{self.kind}={self.value:g}"


def parse_target(target: str | Mapping[str, float | str]) -> Target:
    """Read "macs=0.5", {"macs": 0.5}, "channels=0.5", "params=2M", "memory=300MB".

    A number between 0 and 1 is the fraction kept; with a unit (k, M, G, B) it is absolute.

    **Raises:** `UsageError`: not of that form, a fraction that is not between 0 and 1, or a target of 1, which asks for
    nothing.
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


def allocate(
    graph: Graph,
    target: Target | None,
    scores: NDArray[np.float64],
    options: Options,
) -> Allocation:
    """Choose units to remove so that the target is met.

    **Arguments:**

    - `graph`: the traced model.
    - `target`: what must remain; None where `ratios` say it all: what they do not name stays whole.
    - `scores`: importance of each unit; within a family the lowest go first.
    - `options`: who competes (`scope`: "local" cuts every group alike; "global" compares units across all groups, by
      their importance relative to their group's mean; "isomorphic" compares groups of one shape only, Fang et al.,
      2024), `ratios`, `protect`, `only` and `multiple_of`, as `podar.prune` describes them.

    **Raises:**

    - `UsageError`: a pattern that matches nothing.
    - `PodarError`: the target cannot be reached; the message says the nearest value that can. Or nothing can be cut.
    """
    moves, scope = moves_for(graph, target, scores, options), options.scope or SCOPES[0]
    if not (moves.steps > moves.least).any():
        why = f"nothing of this model can be cut: {_why_nothing(graph, options)}"
        if target is not None and target.kind != "channels":
            why = f"target {target} cannot be reached: the nearest is {target.kind}=1.000 of dense, since {why}"
        raise PodarError(why)
    if target is None:
        kept = moves.settle(moves.steps)
    elif target.kind == "channels":
        kept = _channels(moves, target.value, scope)
    else:
        kept = _budget(moves, target, scope)
    return moves.allocation(kept)


def moves_for(
    graph: Graph,
    target: Target | None,
    scores: NDArray[np.float64],
    options: Options,
) -> Moves:
    """How each cluster of a graph can shrink under these options.

    **Raises:** `UsageError`: nothing is asked for, or a pattern matches nothing.
    """
    if target is None and not options.ratios:
        raise UsageError(
            f"say what must remain: a target such as macs=0.5 (of {', '.join(KINDS)}), or ratios of some layers"
        )
    multiple_of = options.multiple_of
    if multiple_of == AUTO and (target is None or target.kind == "channels"):
        multiple_of = 1  # counts of units are meant as they are
    return Moves(graph, scores, options, multiple_of)


def _why_nothing(graph: Graph, asked: Options) -> str:
    """Why no unit can go, in words that end a sentence."""
    named = {"protect": patterns(asked.protect), "only": patterns(asked.only)}
    if graph.clusters and not any(named.values()):
        return "its groups have no more units than a variance over them needs (podar inspect MODEL lists them)"
    if graph.clusters:
        options = " and ".join(f"{option}={list(own)}" for option, own in named.items() if own)
        return f"all that could go is protected by {options}; podar inspect MODEL, in Python graph.groups, lists it"
    return frozen_reasons(graph) or (
        "it has no parameters with channels, heads or units (weights quantised already are packed: prune before that); "
        "podar inspect MODEL shows what there is"
    )


def frozen_reasons(graph: Graph) -> str:
    """The most frequent reasons for which axes are frozen, and where to find them all; empty where there are none."""
    counts = Counter(why for _, _, why in graph.frozen)
    if not counts:
        return ""
    reasons = "; ".join(f"{why} ({count})" for why, count in counts.most_common(3))
    return (
        f"{sum(counts.values())} axes of parameters are frozen, mostly since: {reasons}; "
        "podar inspect MODEL, in Python graph.frozen, lists them"
    )


def _channels(moves: Moves, fraction: float, scope: str) -> NDArray[np.int64]:
    """`ceil(fraction · n)` of every group (local), or that total over all groups with at least one in each."""
    if scope == "local":
        return moves.settle(np.ceil(fraction * moves.steps - 1e-9).astype(np.int64))
    cluster, units = moves.sequence(scope)
    total = sum(g.size - math.ceil(fraction * g.size - 1e-9) for g in moves.groups if not g.held)
    gone = np.searchsorted(np.cumsum(units), total, side="right")
    return moves.settle(kept_steps(moves, cluster[:gone]))


def _budget(moves: Moves, target: Target, scope: str) -> NDArray[np.int64]:
    """The steps that each cluster keeps so that the cost comes to the target, or a refusal that names the nearest."""
    dense = moves.graph.costs.value(target.kind, np.ones(len(moves.graph.families)))
    goal = target.value if target.absolute else target.value * dense
    whole = target.dense or dense
    if target.absolute and goal >= dense:
        raise UsageError(f"target {target}: the model has {dense:,.0f} already, there is nothing to do")
    tolerance = min(TOLERANCE * whole, 0.3 * goal)

    def cost(kept: NDArray[np.int64]) -> float:
        return moves.cost(target.kind, kept)

    def off(kept: NDArray[np.int64]) -> float:
        return abs(cost(kept) - goal)

    kept = _search(moves, scope, goal, tolerance / 4, cost)
    if off(kept) > tolerance and moves.multiple_of == AUTO:
        exact = _search(moves.exact(), scope, goal, tolerance / 4, cost)
        kept = exact if off(exact) > tolerance else _relaxed(moves, kept, goal, tolerance, cost)
        kept = kept if off(kept) <= tolerance else exact  # single layers do not help: all may have any width
    reached = cost(kept)
    if abs(reached - goal) > tolerance:
        held = ", protected layers" if moves.fixed or moves.clusters is not moves.graph.clusters else ""
        why = frozen_reasons(moves.graph)
        share = f"{reached / whole:{_digits(goal / whole)}}"
        raise PodarError(
            f"target {target} cannot be reached: the nearest is {target.kind}={share} of dense ({reached:,.0f}); "
            f"the rest is in frozen axes{held} and in widths that cannot be split further"
            + (f" ({why})" if why else "")
        )
    return kept


def _search(
    moves: Moves, scope: str, goal: float, close: float, cost: Callable[[NDArray[np.int64]], float]
) -> NDArray[np.int64]:
    """Remove in order until the cost falls to the goal, then mend single steps for what rounding left."""
    order, _ = moves.sequence(scope)

    def off(kept: NDArray[np.int64]) -> float:
        return abs(cost(kept) - goal)

    def around(state: Callable[[int], NDArray[np.int64]], moves_there: int) -> list[NDArray[np.int64]]:
        """The last state above the goal and the first one that is not."""
        low = bisect.bisect_left(range(moves_there), -goal, key=lambda n: -cost(state(n)))
        return [state(n) for n in sorted({max(low - 1, 0), low})]

    options = around(lambda n: moves.settle(kept_steps(moves, order[:n])), len(order))
    kept = min(options, key=off)
    if off(kept) > close:  # one move costs that much: on either side of it the others may go further
        large = options[0] != options[-1]
        others = order[~large[order]]
        for option in list(options):

            def beside(n: int, option: NDArray[np.int64] = option) -> NDArray[np.int64]:
                return np.where(large, option, moves.settle(kept_steps(moves, others[:n])))

            options += around(beside, len(others))
        kept = min(options, key=off)
    return _mend(moves, kept, goal, close, cost)


def _digits(share: float) -> str:
    """How a share is written so that it tells small ones apart."""
    return ".3f" if share >= 0.1 else ".2g"


def _relaxed(
    moves: Moves,
    kept: NDArray[np.int64],
    goal: float,
    tolerance: float,
    cost: Callable[[NDArray[np.int64]], float],
) -> NDArray[np.int64]:
    """One layer after the other may have any width, that first which then comes nearest, until the goal is met."""
    free = set(range(len(kept))) - moves.fixed.keys()
    while abs(cost(kept) - goal) > tolerance and free:
        best = min((_nearest_width(moves, kept, k, goal, cost) for k in free), key=lambda found: found[0])
        off, cluster, steps = best
        if off >= abs(cost(kept) - goal):
            return kept
        free.remove(cluster)
        moves.relax(cluster)
        kept = kept.copy()
        kept[cluster] = steps
    return kept


def _nearest_width(
    moves: Moves, kept: NDArray[np.int64], cluster: int, goal: float, cost: Callable[[NDArray[np.int64]], float]
) -> tuple[float, int, int]:
    """How near to a goal one cluster alone can bring the cost, its number, and the steps that it then keeps."""

    def value(steps: int) -> float:
        trial = kept.copy()
        trial[cluster] = steps
        return cost(trial)

    every = range(int(moves.least[cluster]), moves.clusters[cluster].steps + 1)
    high = bisect.bisect_left(every, goal, key=value)  # the first that is not below the goal
    return min((abs(value(n) - goal), cluster, n) for n in {every[max(high - 1, 0)], every[min(high, len(every) - 1)]})


def _mend(
    moves: Moves,
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
