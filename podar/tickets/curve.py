"""Points of a ticket search, and the curve accuracy against remaining weights that several seeds make of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

ARMS = {
    "ticket": "the mask found, weights rewound",
    "reinit": "the same mask, weights drawn anew",
    "random": "a random mask of equal layer densities, weights rewound",
    "finetune": "the same mask, weights trained on from the round before instead of rewound",
}


@dataclass(frozen=True)
class TicketPoint:
    """One training of a search.

    **Attributes:**

    - `seed`, `round`: where it stands; round 0 is the dense network.
    - `arm`: a key of `ARMS`; the dense network stands under "ticket".
    - `density`: fraction of the prunable weights that remain.
    - `accuracy`: what `evaluate` said after the training, a fraction.
    - `share`: of the training that was done; below 1 where the early bird broke it off.
    - `seconds`: of training and evaluation.
    """

    seed: int
    arm: str
    round: int
    density: float
    accuracy: float
    share: float = 1.0
    seconds: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


@dataclass(frozen=True)
class CurvePoint:
    """The seeds of one arm and round together. `error` is the standard error of the mean; 0 for a single seed."""

    arm: str
    round: int
    density: float
    accuracy: float
    error: float
    seeds: int

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def curve(points: Iterable[TicketPoint], arm: str) -> list[CurvePoint]:
    """Mean and standard error over seeds at each round of one arm, densest first; unfinished trainings are left out.

    The dense network, round 0, is every arm's first point.
    """
    rounds: dict[int, list[TicketPoint]] = {}
    for point in points:
        if point.share >= 1 and (point.arm == arm or (point.round == 0 and point.arm == "ticket")):
            rounds.setdefault(point.round, []).append(point)
    found = []
    for number in sorted(rounds):
        group = rounds[number]
        mean, error = mean_and_error([p.accuracy for p in group])
        found.append(CurvePoint(arm, number, group[0].density, mean, error, len(group)))
    return found


def smallest_density(points: Iterable[TicketPoint], arm: str) -> float | None:
    """The least density at which an arm's mean accuracy is within one standard error of the dense mean, or above.

    It is the plain minimum over all rounds: a round counts even where a denser round before it does not qualify. 1.0
    where no sparse point qualifies; None without a dense point.
    """
    found = curve(points, arm)
    if not found or found[0].round != 0:
        return None
    floor = found[0].accuracy - found[0].error
    return min(p.density for p in found if p.accuracy >= floor)


def mean_and_error(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and its standard error from the sample's deviation; 0 for a single value."""
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, 0.0
    variance = math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)
    return mean, math.sqrt(variance / len(values))
