"""Early bird: notices in the course of a training that the mask one would draw no longer changes."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from torch import Tensor

from podar.errors import UsageError

LOOKS, WINDOW = 20, 3  # looks in a whole training, and masks that must agree


def mask_distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    """The fraction of kept weights on which two masks differ: 0 where they are equal, 1 where they share none.

    You et al. (ICLR 2020) divide the Hamming distance by all weights, which makes any two sparse masks look alike; here
    it is divided by what both keep.
    """
    differing = sum(int((one[n] != other[n]).sum()) for n in one)
    kept = sum(int(one[n].sum()) + int(other[n].sum()) for n in one)
    return differing / kept if kept else 0.0


class EarlyBird:
    """Draws a mask now and then; `settled` when it is near each of the last few.

    **Arguments:**

    - `draw`: gives the masks that would be chosen now, {weight name: boolean}.
    - `threshold`: the distance that counts as near, 0 to 1; You et al. (2020) take 0.1.
    - `window`: how many earlier masks must be near.

    **Raises:** `UsageError`: a threshold outside 0 to 1.
    """

    def __init__(self, draw: Callable[[], dict[str, Tensor]], threshold: float = 0.1, window: int = WINDOW) -> None:
        if not 0 < threshold < 1:
            raise UsageError(f"early_bird={threshold!r}: the mask distance lies between 0 and 1, such as 0.1")
        self.draw, self.threshold = draw, threshold
        self.distances: list[float] = []
        self._masks: deque[dict[str, Tensor]] = deque(maxlen=window)
        self._seen = 0

    def after_step(self, done: int, total: int) -> bool:
        """Look where a look is due; whether the masks have settled."""
        due = done * LOOKS // total
        if due <= self._seen:
            return False
        self._seen = due
        return self.look()

    def look(self) -> bool:
        """Draw a mask and compare it with the earlier ones."""
        masks = {n: m.clone() for n, m in self.draw().items()}
        far = [mask_distance(masks, earlier) for earlier in self._masks]
        full = len(self._masks) == self._masks.maxlen
        if far:
            self.distances.append(max(far))
        self._masks.append(masks)
        return full and max(far) < self.threshold
