"""The aim of an allocation: how far from its targets a model under a plan would be."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from podar.errors import UsageError
from podar.graph.cost import Shares
from podar.graph.graph import Graph
from podar.pruning.target import Target

TOLERANCE = 0.03
"""A target is met when |reached − target| is at most this share of dense, or 0.3 of a target below a tenth of dense."""


Prices = NDArray[np.float64]
"""What a model costs by each target's metric, on the scale of the first target's."""


class Aim:
    """One target, or several at once, on one scale: that of the first target's metric.

    The cost of several targets is the cost by that one which is furthest from its bound, relative to the bounds.
    """

    def __init__(self, graph: Graph, targets: Sequence[Target]) -> None:
        """**Raises:** `UsageError`: an amount that is more than the model has."""
        self.graph, self.targets = graph, targets
        whole = Shares(np.ones(len(graph.families)))
        self.dense = [target.price(graph, whole) for target in targets]
        self.goals = [
            target.value if target.absolute else target.value * dense for target, dense in zip(targets, self.dense)
        ]
        for target, goal, dense in zip(targets, self.goals, self.dense):
            if target.absolute and target.dense is None and goal >= dense:
                raise UsageError(
                    f"target {target}: the model has {target.metric.told(dense)} already, there is nothing to do"
                )
        self.goal = self.goals[0]
        self.scales = [self.goal / goal for goal in self.goals]
        self.whole = max(scale * (t.dense or dense) for scale, t, dense in zip(self.scales, targets, self.dense))
        self.exact = np.array([not target.most for target in targets])
        self.tolerances = np.array(
            [
                scale * (TOLERANCE * goal if t.tables is not None else min(TOLERANCE * (t.dense or dense), 0.3 * goal))
                for scale, t, goal, dense in zip(self.scales, targets, self.goals, self.dense)
            ]
        )
        self.tolerance = float(self.tolerances.min())

    def prices(self, left: Shares) -> Prices:
        """The price of what is left, by each target's metric."""
        return np.array([scale * target.price(self.graph, left) for scale, target in zip(self.scales, self.targets)])

    def cost(self, left: Shares) -> float:
        """The price of what is left, by the metric of the target that is furthest from being met."""
        return float(self.prices(left).max())

    def off(self, prices: Prices) -> float:
        """How far prices are from the goals. A price above an upper bound is further off than any price below it."""
        over = prices > self.goal
        if not self.exact.any():
            cost = float(prices.max())
            return cost - self.goal + self.whole if over.any() else self.goal - cost
        beyond = np.where(over & ~self.exact, prices - self.goal + self.whole, 0.0)
        return float(np.where(self.exact, np.abs(prices - self.goal), beyond).sum())

    def near(self, prices: Prices) -> bool:
        """Whether the targets are met, and no less is left than has to be."""
        if not self.exact.any():
            return self.off(prices) <= self.tolerance
        return not self.unmet(prices)

    def unmet(self, prices: Prices) -> list[int]:
        """The places of the targets that these prices do not meet. Every price below an upper bound meets it."""
        close = np.abs(prices - self.goal) <= self.tolerances
        return np.flatnonzero(~np.where(self.exact, close, prices <= self.goal)).tolist()
