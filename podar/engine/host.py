"""The host, torch or ONNX Runtime, that runs what the engine does not: the reasons for that, and times of both."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any


def by_kind(reasons: Iterable[tuple[str, str]]) -> dict[str, tuple[int, str]]:
    """How many operators of each kind stay, and the last reason: from pairs of kind and reason."""
    found: dict[str, tuple[int, str]] = {}
    for kind, why in reasons:
        found[kind] = found.get(kind, (0, why))[0] + 1, why
    return found


def fastest_times(*runs: Callable[[], Any], times: int) -> list[float]:
    """Milliseconds of the fastest of some runs of each, in turn."""
    best = [float("inf")] * len(runs)
    for _ in range(times):
        for k, run in enumerate(runs):
            start = time.perf_counter()
            run()
            best[k] = min(best[k], time.perf_counter() - start)
    return [seconds * 1e3 for seconds in best]
