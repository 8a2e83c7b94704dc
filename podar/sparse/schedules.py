"""Schedules: which share of the final sparsity is reached when a given share of the training is done, 0 to 1."""

from __future__ import annotations

import math
from collections.abc import Callable

from podar.errors import QUOTED, UsageError, did_you_mean

Schedule = Callable[[float], float]
"""share of the training that is done, 0 to 1 → share of the final amount, 0 to 1, never falling."""


def one_shot(begin: float = 0.0) -> Schedule:
    """All at once, when `begin` of the training is done."""
    _check(begin, begin)
    return lambda share: float(share >= begin)


def iterative(rounds: int = 5, begin: float = 0.0, end: float = 0.75) -> Schedule:
    """In `rounds` equal steps, the first at `begin`, the last at `end` (Han et al., 2015).

    **Raises:** `UsageError`: no round, or times outside 0 ≤ begin ≤ end ≤ 1.
    """
    if rounds < 1:
        raise UsageError(f"rounds={rounds}: an iterative schedule has at least one round")
    _check(begin, end)
    length = (end - begin) / max(rounds - 1, 1)

    def amount(share: float) -> float:
        if share < begin:
            return 0.0
        if share >= end or not length:
            return 1.0
        return min(rounds, 1 + math.floor((share - begin) / length + 1e-9)) / rounds

    return amount


def cubic(begin: float = 0.0, end: float = 0.75) -> Schedule:
    """1 − (1 − t)³ between `begin` and `end`: fast while much can go, slow at the end (Zhu and Gupta, 2017).

    **Raises:** `UsageError`: times outside 0 ≤ begin ≤ end ≤ 1.
    """
    _check(begin, end)

    def amount(share: float) -> float:
        t = 1.0 if share >= end else max(0.0, (share - begin) / (end - begin))
        return 1 - (1 - t) ** 3

    return amount


SCHEDULES: dict[str, Callable[[], Schedule]] = {"one-shot": one_shot, "iterative": iterative, "cubic": cubic}


def parse_schedule(schedule: str | Schedule) -> Schedule:
    """A schedule by name (one-shot, iterative, cubic), or as it is.

    **Raises:** `UsageError`: no schedule has that name.
    """
    if not isinstance(schedule, str):
        return schedule
    if schedule not in SCHEDULES:
        hint = did_you_mean(schedule, [*SCHEDULES, "podar.sparse.rigl"], QUOTED, list_all=True)
        raise UsageError(f"there is no schedule {schedule!r}{hint}")
    return SCHEDULES[schedule]()


def _check(begin: float, end: float) -> None:
    if not 0 <= begin <= end <= 1:
        raise UsageError(f"a schedule runs within the training: 0 ≤ begin ≤ end ≤ 1, not {begin:g} and {end:g}")
