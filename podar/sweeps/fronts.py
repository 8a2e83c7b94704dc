"""Fronts and knees: which points nothing else beats, and where a front bends most. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

KNEE_RULE = (
    "of the points that no other beats in both, the one that lies farthest above the straight line from the cheapest "
    "to the best of them, with cost and quality each scaled to their span on the front"
)

CostAndQuality = tuple[float, float]
"""(cost, quality): less of the first and more of the second is better."""


def front(places: Sequence[CostAndQuality]) -> list[int]:
    """The points that no other beats in both, cheapest first; of equal ones the first stands for all.

    ```python
    >>> front([(1.0, 0.5), (2.0, 0.4), (3.0, 0.9)])
    [0, 2]

    ```
    """
    best, found = -math.inf, []
    for at in sorted(range(len(places)), key=lambda k: (places[k][0], -places[k][1], k)):
        if places[at][1] > best:
            best = places[at][1]
            found.append(at)
    return found


def knee(places: Sequence[CostAndQuality]) -> int | None:
    """Where the front bends most, by `KNEE_RULE` (as Kneedle does, Satopaa et al. 2011); None where it does not.

    ```python
    >>> knee([(1.0, 0.5), (2.0, 0.9), (10.0, 0.92)])
    1

    ```
    """
    own = front(places)
    if len(own) < 3:
        return None
    (low, worst), (high, best) = places[own[0]], places[own[-1]]
    above = {at: (places[at][1] - worst) / (best - worst) - (places[at][0] - low) / (high - low) for at in own[1:-1]}
    at = max(above, key=lambda k: above[k])
    return at if above[at] > 0 else None
