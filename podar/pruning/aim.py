"""The aim of an allocation: how far from its targets a model under a plan would be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from podar.errors import UsageError
from podar.graph.cost import Shares
from podar.graph.graph import Graph
from podar.pruning.target import Target

TOLERANCE = 0.03
"""A target is met when |reached − target| is at most this share of dense, below a tenth of dense 0.3 of the target."""


class Aim:
    """One target, or several upper bounds at once, on one scale: that of the first target's metric.

    The cost of several is that of the one that is furthest from its bound, relative to the bounds.
    """

    def __init__(self, graph: Graph, targets: Sequence[Target], tables: object = None) -> None:
        """**Raises:** `UsageError`: an amount that is more than the model has."""
        self.graph, self.targets, self.tables = graph, targets, tables
        whole = Shares(np.ones(len(graph.families)))
        self.dense = [target.metric.price(graph, whole, tables) for target in targets]
        self.goals = [
            target.value if target.absolute else target.value * dense for target, dense in zip(targets, self.dense)
        ]
        for target, goal, dense in zip(targets, self.goals, self.dense):
            if target.absolute and target.dense is None and goal >= dense:
                raise UsageError(f"target {target}: the model has {dense:,.0f} already, there is nothing to do")
        self.goal = self.goals[0]
        self.scales = [self.goal / goal for goal in self.goals]
        self.whole = max(scale * (t.dense or dense) for scale, t, dense in zip(self.scales, targets, self.dense))
        self.most = targets[0].most
        self.tolerance = min(
            scale * min(TOLERANCE * (t.dense or dense), 0.3 * goal)
            for scale, t, goal, dense in zip(self.scales, targets, self.goals, self.dense)
        )

    def cost(self, left: Shares) -> float:
        """What is left costs this much, by the metric of the target that it is furthest from."""
        return max(
            scale * target.metric.price(self.graph, left, self.tables)
            for scale, target in zip(self.scales, self.targets)
        )

    def off(self, cost: float) -> float:
        """How far a cost is from the goal; above an upper bound every cost is further off than any below."""
        return cost - self.goal + self.whole if self.most and cost > self.goal else abs(cost - self.goal)

    def near(self, cost: float) -> bool:
        """Whether the targets are met with this cost, and no less is left than has to be."""
        return self.off(cost) <= self.tolerance

    def met(self, cost: float) -> bool:
        """Whether the targets are met with this cost: an upper bound is by every cost below it."""
        return cost <= self.goal if self.most else self.near(cost)
