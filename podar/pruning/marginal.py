"""Orders moves by the error that they add for each unit of cost that they save, where scores are errors that add up."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from podar.pruning.moves import Moves

AT_ONCE = 32
"""The moves of a cluster are made in at most so many strides."""

FREE = 1e-12
"""A stride saves at least this share of the dense cost, or it counts as one that saves nothing and goes last."""


def by_error(moves: Moves, cost: Callable[[NDArray[np.int64]], float]) -> NDArray[np.int64]:
    """All moves of all clusters but the last of each. The next stride is that with the least error per cost saved.

    Costs are those after all earlier moves. The smaller its neighbours have become, the less a stride saves, so a price
    that was worked out earlier is a lower bound, and only the cheapest stride has to be priced anew.

    **Arguments:**

    - `cost`: of the steps that each cluster keeps.
    """
    added = [_added(moves, k) for k in range(len(moves.clusters))]
    kept = moves.steps.copy()
    dense = cost(kept)
    now = dense

    def stride(k: int) -> int:
        return min(max(1, int(moves.steps[k]) // AT_ONCE), int(kept[k]) - 1)

    def price(k: int) -> tuple[float, float, int, float]:
        """The error that a stride adds per cost saved. Strides that save nothing come last, ordered by their error."""
        n, gone = stride(k), int(moves.steps[k] - kept[k])
        error = float(added[k][gone : gone + n].sum())
        trial = kept.copy()
        trial[k] -= n
        after = cost(trial)
        saved = (now - after) / dense if dense else 0.0
        return (error / saved, 0.0, k, after) if saved > FREE else (np.inf, error, k, after)

    order: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)]
    waiting = [price(k)[:3] for k in range(len(kept)) if kept[k] > 1]
    heapq.heapify(waiting)
    while waiting:
        _, _, k = heapq.heappop(waiting)
        current = price(k)
        if waiting and current[:2] > waiting[0][:2]:
            heapq.heappush(waiting, current[:3])
            continue
        n = stride(k)
        order.append(np.full(n, k, dtype=np.int64))
        kept[k] -= n
        now = current[3]
        if kept[k] > 1:
            heapq.heappush(waiting, price(k)[:3])
    return np.concatenate(order)


def _added(moves: Moves, cluster: int) -> NDArray[np.float64]:
    """The error that each move of a cluster adds: the sum over the units that go with it."""
    steps = moves.clusters[cluster].steps
    families = (moves.scores[moves.order[f]] for f in moves.clusters[cluster].families)
    return np.sum([own.reshape(steps, -1).sum(1) for own in families], axis=0)
