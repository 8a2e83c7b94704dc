"""How much of which group goes, so that the targets are met."""

from __future__ import annotations

import bisect
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from podar.errors import PodarError, UsageError
from podar.graph.cost import Shares
from podar.graph.graph import Graph
from podar.model.patterns import patterns
from podar.pruning.aim import Aim, Prices
from podar.pruning.balance import balanced, several
from podar.pruning.metrics import METRICS
from podar.pruning.moves import Allocation, Moves, kept_steps
from podar.pruning.options import AUTO, SCOPES, Options
from podar.pruning.target import Target

Steps = NDArray[np.int64]
"""For each cluster the number of its steps that it keeps."""

_ROUNDS = 64  # single clusters are changed at most so often
_LONG = 512  # the same where each change weighs one target against another


def allocate(
    graph: Graph,
    targets: Sequence[Target],
    scores: NDArray[np.float64],
    options: Options,
) -> Allocation:
    """Choose units to remove so that the target is met.

    **Arguments:**

    - `graph`: the traced model.
    - `targets`: what must remain: one target, several, or none. Without a target only `ratios` cut, and what they do
      not name stays whole.
    - `scores`: importance of each unit; within a family the lowest go first.
    - `options`: who competes (`scope`: "local" cuts every group alike; "global" compares units across all groups, by
      their importance relative to their group's mean; "isomorphic" compares groups of one shape only, Fang et al.,
      2024; "error" takes the scores for errors that add up, and the least error per cost first), `ratios`, `protect`,
      `only` and `multiple_of`, as `podar.prune` describes them.

    **Raises:**

    - `UsageError`: a pattern that matches nothing.
    - `PodarError`: the target cannot be reached; the message says the nearest value that can. Or nothing can be cut.
    """
    moves, scope = moves_for(graph, targets, scores, options), options.scope or SCOPES[0]
    if not (moves.steps > moves.least).any():
        why = f"nothing of this model can be cut: {_why_nothing(graph, options)}"
        if targets and not targets[0].metric.counts:
            asked = ", ".join(map(str, targets))
            why = f"target {asked} cannot be reached: the nearest is {targets[0].kind}=1.000 of dense, since {why}"
        raise PodarError(why)
    if not targets:
        kept = moves.settle(moves.steps)
    elif targets[0].metric.counts:
        kept = _count(moves, targets[0].value, scope)
    else:
        kept = _budget(moves, Aim(graph, targets), scope)
    return moves.allocation(kept)


def moves_for(
    graph: Graph,
    targets: Sequence[Target],
    scores: NDArray[np.float64],
    options: Options,
) -> Moves:
    """How each cluster of a graph can shrink under these options.

    **Raises:** `UsageError`: nothing is asked for, or a pattern matches nothing.
    """
    if not targets and not options.ratios:
        raise UsageError(
            f"say what must remain: a target such as macs=0.5 (of {', '.join(METRICS)}), or ratios of some layers"
        )
    multiple_of = options.multiple_of
    if multiple_of == AUTO and (not targets or targets[0].metric.counts):
        multiple_of = 1  # a count of units is not rounded
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


def _count(moves: Moves, fraction: float, scope: str) -> Steps:
    """`ceil(fraction · n)` of every group (local), or that total over all groups with at least one in each."""
    if scope == "local":
        return moves.settle(np.ceil(fraction * moves.steps - 1e-9).astype(np.int64))
    cluster, units = moves.sequence(scope)
    total = sum(g.size - math.ceil(fraction * g.size - 1e-9) for g in moves.groups if not g.held)
    gone = np.searchsorted(np.cumsum(units), total, side="right")
    return moves.settle(kept_steps(moves, cluster[:gone]))


def _budget(moves: Moves, aim: Aim, scope: str) -> Steps:
    """The steps that each cluster keeps so that the cost comes to the aim, or a refusal that names the nearest."""
    kept = _search(moves, aim, scope)
    if not aim.near(_prices(moves, aim, kept)) and moves.multiple_of == AUTO:
        exact = _search(moves.exact(), aim, scope)
        relaxed = _any_width(moves, aim, kept) if aim.near(_prices(moves, aim, exact)) else kept
        if not aim.near(_prices(moves, aim, relaxed)):  # that does not help: all layers may have any width
            kept = min(exact, kept, key=lambda steps: aim.off(_prices(moves, aim, steps)))
        else:
            kept = relaxed
    if aim.unmet(_prices(moves, aim, kept)):
        raise PodarError(_unreachable(moves, aim, kept))
    return kept


def _unreachable(moves: Moves, aim: Aim, kept: Steps) -> str:
    """The sentence that refuses targets: which cannot be reached, and the nearest value that can."""
    prices = _prices(moves, aim, kept)
    place = aim.unmet(prices)[0]
    target, goal, scale = aim.targets[place], aim.goals[place], aim.scales[place]
    reached, whole = prices[place] / scale, target.dense or aim.dense[place]
    share = f"{reached / whole:{_digits(goal / whole)}}"
    held = ", protected layers" if moves.fixed or moves.clusters is not moves.graph.clusters else ""
    why = frozen_reasons(moves.graph)
    others = ", ".join(str(own) for k, own in enumerate(aim.targets) if k != place)
    least = aim.prices(Shares(moves.share(moves.exact().settle(moves.least))))[place] / scale
    takes = f"; what cannot be cut takes {target.metric.told(least)} by itself" if least > goal else ""
    return (
        f"target {target} cannot be reached{f' together with {others}' if others else ''}: the nearest is "
        f"{target.kind}={share} of dense ({target.metric.told(reached)}){takes}; the rest is in frozen axes{held} and "
        "in widths that cannot be split further" + (f" ({why})" if why else "")
    )


def _digits(share: float) -> str:
    """The format in which a share is written, so that small shares can be told apart."""
    return ".3f" if share >= 0.1 else ".2g"


def _cost(moves: Moves, aim: Aim, kept: Steps) -> float:
    """What the model costs when every cluster keeps so many of its steps."""
    return aim.cost(Shares(moves.share(kept)))


def _prices(moves: Moves, aim: Aim, kept: Steps) -> Prices:
    """The price by each target's metric when every cluster keeps so many of its steps."""
    return aim.prices(Shares(moves.share(kept)))


def _search(moves: Moves, aim: Aim, scope: str) -> Steps:
    """Remove in order until the cost falls to the goal, then mend single steps for what rounding left."""
    order, _ = moves.sequence(scope, lambda kept: _cost(moves, aim, kept))
    close = aim.tolerance / 4

    def off(kept: Steps) -> float:
        return aim.off(_prices(moves, aim, kept))

    def around(state: Callable[[int], Steps], moves_there: int) -> list[Steps]:
        """The last state above the goal and the first one that is not."""
        low = bisect.bisect_left(range(moves_there), -aim.goal, key=lambda n: -_cost(moves, aim, state(n)))
        return [state(n) for n in sorted({max(low - 1, 0), low})]

    options = around(lambda n: moves.settle(kept_steps(moves, order[:n])), len(order))
    kept = min(options, key=off)
    if off(kept) > close:  # one move is too large: with it or without it, the other clusters may come nearer
        large = options[0] != options[-1]
        others = order[~large[order]]
        for option in list(options):

            def beside(n: int, option: Steps = option) -> Steps:
                return np.where(large, option, moves.settle(kept_steps(moves, others[:n])))

            options += around(beside, len(others))
        kept = min(options, key=off)
    if several(aim) and aim.unmet(_prices(moves, aim, kept)):
        kept = min((kept, balanced(moves, aim, kept)), key=off)
    return _mended(moves, aim, kept, close)


def _mended(moves: Moves, aim: Aim, kept: Steps, close: float) -> Steps:
    """Take or give back single steps while that brings the cost nearer to the goal."""

    both = several(aim)  # what is too much for one target may be too little for another

    def next_width(kept: Steps, cluster: int, over: bool) -> Iterable[int]:
        widths = np.flatnonzero(moves.allowed[cluster])
        below, above = widths[widths < kept[cluster]], widths[widths > kept[cluster]]
        if both:
            return {*below[-1:].tolist(), *below[-4:-3].tolist(), *above[:1].tolist(), *above[3:4].tolist()}
        return below[-1:].tolist() if over else above[:1].tolist()

    return _one_by_one(
        moves, aim, kept, next_width, lambda prices: aim.off(prices) <= close, rounds=_LONG if both else _ROUNDS
    )


def _any_width(moves: Moves, aim: Aim, kept: Steps) -> Steps:
    """Let one layer after the other have any width, first the one that comes nearest, until the goal is met."""

    def nearest_widths(kept: Steps, cluster: int, over: bool) -> Iterable[int]:
        every = range(int(moves.least[cluster]), moves.clusters[cluster].steps + 1)
        high = bisect.bisect_left(every, aim.goal, key=lambda n: _cost(moves, aim, _with(kept, cluster, n)))
        return sorted({every[max(high - 1, 0)], every[min(high, len(every) - 1)]})  # either side of the goal

    return _one_by_one(moves, aim, kept, nearest_widths, aim.near, once=True)


def _one_by_one(
    moves: Moves,
    aim: Aim,
    kept: Steps,
    widths: Callable[[Steps, int, bool], Iterable[int]],
    enough: Callable[[Prices], bool],
    once: bool = False,
    rounds: int = _ROUNDS,
) -> Steps:
    """Change one cluster at a time, by the change that brings the cost nearest to the goal, until it is near enough.

    **Arguments:**

    - `widths(kept, cluster, over)`: the numbers of steps that are tried for a cluster; `over` says whether the cost is
      above the goal.
    - `once`: a cluster is changed at most once.
    """
    free = [k for k in range(len(kept)) if k not in moves.fixed]
    for _ in range(rounds):
        prices = _prices(moves, aim, kept)
        if enough(prices):
            break
        tried = ((k, n) for k in free for n in widths(kept, k, float(prices.max()) > aim.goal))
        found = ((aim.off(_prices(moves, aim, _with(kept, k, n))), k, n) for k, n in tried)
        off, cluster, steps = min(found, default=(math.inf, 0, 0))
        if off >= aim.off(prices):
            break
        kept = _with(kept, cluster, steps)
        if once:
            free.remove(cluster)
    return kept


def _with(kept: Steps, cluster: int, steps: int) -> Steps:
    """The same with another number of steps of one cluster."""
    other = kept.copy()
    other[cluster] = steps
    return other
