"""Finds the k smallest scores of many tensors, exactly, without joining or sorting the tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_SAMPLE = 1 << 19


@dataclass(frozen=True)
class Threshold:
    """Where the line runs: everything below `value` goes, and the first `ties` elements equal to it.

    **Attributes:**

    - `value`: the k-th smallest score.
    - `ties`: how many of the scores equal to it go, counted in order.
    """

    value: float
    ties: int


def cut_at(parts: Sequence[Callable[[], Tensor]], k: int) -> Threshold:
    """Find the line below which exactly `k` scores lie.

    A sorted sample brackets the k-th smallest score between two values; one pass counts what lies below and collects
    the few per cent or less in between, where the exact answer is looked up. A bracket that misses is widened.

    **Arguments:**

    - `parts`: each call gives the scores of one tensor, flat, all of one type (float32 or float64, or the line would be
      rounded); called twice at least, so that scores need not be held.
    - `k`: how many go, at least 1 and at most all.
    """
    sizes = [len(part()) for part in parts]
    stride = max(1, sum(sizes) // _SAMPLE)
    sample = torch.cat([part()[::stride] for part in parts]).sort().values
    count, where = len(sample), (k - 1) / sum(sizes)
    margin = 6 * (count * where * (1 - where)) ** 0.5 + 32
    while True:
        low, high = int(where * count - margin), int(where * count + margin)
        least = float(sample[low]) if low > 0 else -torch.inf
        most = float(sample[high]) if high < count else torch.inf
        below, middle = _between(parts, least, most)
        if below < k <= below + middle.numel():
            if least == most:
                return Threshold(least, k - below)
            value = float(middle.kthvalue(k - below).values)
            return Threshold(value, k - below - int(torch.count_nonzero(middle < value)))
        margin *= 16


def _between(parts: Sequence[Callable[[], Tensor]], least: float, most: float) -> tuple[int, Tensor]:
    """How many scores are less than `least`, and those from `least` to `most` (not copied where all are equal)."""
    below, collected = 0, []
    for part in parts:
        scores = part()
        if least > -torch.inf:
            below += int(torch.count_nonzero(scores < least))
        if least == most:
            same = int(torch.count_nonzero(scores == least))
            collected.append(scores[:1].expand(same))
        elif least > -torch.inf or most < torch.inf:
            collected.append(scores[(scores >= least) & (scores <= most)])
        else:
            collected.append(scores)
    return below, collected[0] if len(collected) == 1 else torch.cat(collected)


def kept_above(scores: Tensor, cut: Threshold) -> tuple[Tensor, Threshold]:
    """Which scores of one tensor stay (boolean, flat), and the cut for the tensors after it."""
    kept = scores > cut.value
    if not cut.ties:
        return kept | (scores == cut.value), cut
    equal = (scores == cut.value).nonzero().flatten()
    kept[equal[cut.ties :]] = True
    return kept, Threshold(cut.value, max(0, cut.ties - len(equal)))


def keep_largest(scores: Tensor, remove: int) -> Tensor:
    """Keep all but the `remove` least of one flat tensor, the last ones among equals: boolean."""
    if remove <= 0:
        return torch.ones_like(scores, dtype=torch.bool)
    return kept_above(scores, cut_at([lambda: scores], remove))[0]
