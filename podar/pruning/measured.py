"""Targets whose prices are predictions: plans are measured and made anew until one meets the targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from podar.errors import PodarError
from podar.graph.cost import Shares
from podar.graph.graph import Graph
from podar.model.inputs import ExampleInputs
from podar.pruning.aim import TOLERANCE, Aim
from podar.pruning.moves import Allocation
from podar.pruning.options import Options
from podar.pruning.target import Target

ROUNDS = 6
"""A plan is made anew at most so often."""

WASTE = 2 * TOLERANCE
"""An upper bound is met closely where the measurement lies below it by at most this share."""


@dataclass(frozen=True)
class Trial:
    """One plan that was tried: by metric what was predicted and measured, and how far off the targets it is."""

    allocation: Allocation
    found: Mapping[str, Any]
    off: float


def prepared(
    targets: Sequence[Target], model: nn.Module, example_inputs: ExampleInputs, graph: Graph, options: Options
) -> tuple[Target, ...]:
    """The targets with the tables that their metrics need for this model.

    **Raises:** As the metrics.
    """
    return tuple(
        target
        if target.metric.prepare is None
        else replace(target, tables=target.metric.prepare(model, example_inputs, graph, options))
        for target in targets
    )


def with_widths(options: Options, targets: Sequence[Target]) -> Options:
    """The options with the widths that measured targets like best."""
    return replace(options, widths=max([options.widths, *(t.tables.widths for t in targets if t.tables is not None)]))


def met_when_measured(
    graph: Graph,
    targets: Sequence[Target],
    allocate: Callable[[Sequence[Target]], Allocation],
    candidate: Callable[[Allocation], nn.Module],
) -> tuple[Allocation, Mapping[str, Any]]:
    """An allocation that meets the targets when the smaller model is measured.

    **Arguments:** `candidate(allocation)`: a smaller model, which is thrown away.

    **Returns:** The allocation, and by metric what was predicted and measured.

    **Raises:** `PodarError`: none comes within 3 % of a target; the message says the nearest.
    """
    own = [place for place, target in enumerate(targets) if target.tables is not None]
    if not own:
        return allocate(targets), {}
    aim = Aim(graph, targets)
    asked = list(targets)
    trials: list[Trial] = []
    for _ in range(ROUNDS):
        allocation = allocate(asked)
        left = Shares(allocation.share)
        binding = int(aim.prices(left).argmax())
        found: dict[str, Any] = {}
        off = 0.0
        for place in own:
            target, goal = targets[place], aim.goals[place]
            tables = target.tables
            predicted = tables.predicted(graph, left)
            measured = tables.measured(candidate(allocation))
            found[target.kind] = tables.found(predicted, measured)
            if measured is None:
                continue
            off = max(off, _off(target, measured / goal, binding == place or len(targets) == 1))
            ratio = target.price(graph, left) / measured * (1 - TOLERANCE / 2 if target.most else 1)
            asked[place] = replace(target, value=goal * ratio, absolute=True, dense=target.dense or aim.dense[place])
        trials.append(Trial(allocation, found, off))
        if off <= TOLERANCE:
            return allocation, found
    best = min(trials, key=lambda trial: trial.off)
    for place in own:
        target, goal = targets[place], aim.goals[place]
        if target.most and best.found[target.kind].reached <= goal:
            continue  # the bound is kept, and no plan nearer to it was found
        raise PodarError(
            f"target {target} cannot be met within {TOLERANCE:.0%}: of {len(trials)} plans that were measured the "
            f"nearest took {target.metric.told(best.found[target.kind].reached)}, where "
            f"{target.metric.told(goal)} are asked for; ask for another amount, or give multiple_of=1"
        )
    return best.allocation, best.found


def _off(target: Target, share: float, binding: bool) -> float:
    """How far a measurement is from its goal, given as a share of that goal."""
    if not target.most:
        return abs(share - 1)
    if share > 1:
        return share
    return max(0.0, 1 - share - WASTE + TOLERANCE) if binding else 0.0
