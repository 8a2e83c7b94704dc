"""Several targets at once: clusters change where that helps one and costs the other little, until both are met."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from podar.graph.cost import Shares
from podar.pruning.aim import Aim

if TYPE_CHECKING:
    from podar.pruning.moves import Moves

_ROUNDS = 24
_AT_ONCE = 0.25  # at most this share of a cluster changes in one round
_WITHIN = 0.01  # prices stay below an upper bound by this share of it, so that rounding does not pass it


def several(aim: Aim) -> bool:
    """Whether there are several targets, which pull in different directions."""
    return len(aim.targets) > 1 and bool(aim.exact.any())


def balanced(moves: Moves, aim: Aim, kept: NDArray[np.int64]) -> NDArray[np.int64]:
    """Steps near these with which all targets are met, or as nearly as was found.

    In each round the prices are taken to be linear near the present steps, and all clusters change by the smallest
    shares that bring every price to its goal (Newton's method, with the least change of all solutions).
    """
    least, most = moves.least.astype(np.float64), moves.steps.astype(np.float64)
    free = np.array([k not in moves.fixed and least[k] < most[k] for k in range(len(kept))])
    goals = np.where(aim.exact, aim.goal, aim.goal * (1 - _WITHIN))
    at = kept.astype(np.float64)
    for _ in range(_ROUNDS):
        prices = _prices(moves, aim, at)
        active = aim.exact | (prices > goals)
        if (np.abs(prices - goals)[active] < aim.tolerances[active] / 4).all():
            break
        slopes = np.zeros((len(goals), len(at)))
        for k in np.flatnonzero(free):
            there = at.copy()
            stride = max(1.0, most[k] / 16)
            there[k] = at[k] - stride if at[k] - stride >= least[k] else min(most[k], at[k] + stride)
            slopes[:, k] = (_prices(moves, aim, there) - prices) / (there[k] - at[k])
        relative = slopes[active] * most  # the slope by a whole cluster
        change = relative.T @ np.linalg.lstsq(relative @ relative.T, (goals - prices)[active], rcond=1e-9)[0]
        at = np.clip(at + np.clip(change, -_AT_ONCE, _AT_ONCE) * most, least, most)
    return moves.settle(np.rint(at).astype(np.int64))


def _prices(moves: Moves, aim: Aim, kept: NDArray[np.float64]) -> NDArray[np.float64]:
    return aim.prices(Shares(moves.share(kept)))
