"""The one timing discipline: warm up until stable, then run the candidates in turn (A, B, A, B …)."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from podar.errors import UsageError

try:
    import resource
except ImportError:  # Windows does not tell how often another program took the processor
    resource = None

# One turn lasts about this long: long against the clock and the energy counter's 1 ms steps, short against the
# seconds over which a shared machine changes its speed.
_TURN_SECONDS = 0.02
_WARM_UP_SECONDS = 1.0
_LEAST_TURNS = 10  # 3 for a model so slow that this many would take five times the time asked for


@dataclass(frozen=True)
class Timed:
    """What one candidate showed.

    - `samples_ms`: every timed run, in order, by the clock.
    - `turns_ms`: the median run of each turn, without what other programs took of it (see `own_times`). Turn *k* of
      every candidate lies within the same fraction of a second, so `median(b.turns_ms[k] / a.turns_ms[k])` is a ratio
      that a shared machine's drift does not touch.
    - `joules`: energy per run, or None without a meter.
    - `interrupted`: share of the turns in which another program got the processor.
    """

    samples_ms: tuple[float, ...]
    turns_ms: tuple[float, ...]
    joules: float | None = None
    interrupted: float = 0.0

    @property
    def p50(self) -> float:
        return percentile(self.samples_ms, 50)

    @property
    def p95(self) -> float:
        return percentile(self.samples_ms, 95)


@dataclass(frozen=True)
class Timings:
    """One measurement of several candidates: their figures, and the order in which their turns were run."""

    timed: dict[str, Timed]
    schedule: tuple[str, ...]


def time_in_turn(
    runs: Mapping[str, Callable[[], object]],
    *,
    seconds: float = 2.0,
    read_joules: Callable[[], float] | None = None,
) -> Timings:
    """Time callables against each other.

    Each is first run until two successive handfuls agree within 5 % (at most one second). Then they take turns of
    about 20 ms, one after the other; each turn begins with one run that is not counted, since the candidate before
    it has filled the caches with its own weights (left out where a single run fills the turn).

    **Arguments:**

    - `runs`: name → a callable that runs the candidate once and waits for its result.
    - `seconds`: time to spend on each candidate after the warm-up; a slow one gets ten turns all the same (three where
      ten would take five times as long).
    - `read_joules`: a counter of joules drawn so far (`podar.measuring.energy`).

    **Returns:** `Timings`.

    **Raises:** `UsageError` where there is nothing to run or no time to run it in.

    ```python
    >>> timings = time_in_turn({"a": lambda: None, "b": lambda: None}, seconds=0.1)
    >>> timings.schedule[:4]
    ('a', 'b', 'a', 'b')

    ```
    """
    if not runs:
        raise UsageError("nothing to measure: give at least one model.")
    if not (math.isfinite(seconds) and seconds > 0):
        raise UsageError(f"seconds is {seconds}: give a time above 0.")
    samples: dict[str, list[float]] = {name: [] for name in runs}
    turns: dict[str, list[float]] = {name: [] for name in runs}
    joules: dict[str, float] = dict.fromkeys(runs, 0.0)
    interrupted: dict[str, int] = dict.fromkeys(runs, 0)
    schedule: list[str] = []

    collecting = gc.isenabled()
    gc.disable()  # a collection in the middle of a run would be counted as the model's
    try:
        per_turn = {name: max(1, min(1000, round(_TURN_SECONDS / warm_up(run)))) for name, run in runs.items()}
        start = time.perf_counter()
        while not _enough(len(schedule) // len(runs), time.perf_counter() - start, seconds * len(runs)):
            for name, run in runs.items():
                count = per_turn[name]
                if count > 1:
                    run()
                before, switched = read_joules() if read_joules else 0.0, _switches()
                turn = [_lap(run) for _ in range(count)]
                waited, shared = (now > then for now, then in zip(_switches(), switched))
                joules[name] += (read_joules() if read_joules else 0.0) - before
                samples[name] += [clock for clock, _ in turn]
                turns[name].append(statistics.median(own_times(turn, waited, shared)))
                interrupted[name] += shared
                schedule.append(name)
    finally:
        if collecting:
            gc.enable()
    timed = {
        name: Timed(
            tuple(samples[name]),
            tuple(turns[name]),
            joules[name] / len(samples[name]) if read_joules else None,
            interrupted[name] / len(turns[name]),
        )
        for name in runs
    }
    return Timings(timed, tuple(schedule))


def warm_up(run: Callable[[], object]) -> float:
    """Run until stable; the seconds that one run then takes."""
    run()  # the first run allocates, chooses kernels, faults pages in
    end = time.perf_counter() + _WARM_UP_SECONDS
    last = math.inf
    while True:
        handful = [_seconds(run)]
        while len(handful) < 5 and time.perf_counter() < end:
            handful.append(_seconds(run))
        now = max(statistics.median(handful), 1e-7)
        if abs(now - last) <= 0.05 * now or time.perf_counter() >= end:
            return now
        last = now


def _enough(turns: int, elapsed: float, budget: float) -> bool:
    return elapsed >= budget and (turns >= _LEAST_TURNS or (turns >= 3 and elapsed >= 5 * budget))


def percentile(values: tuple[float, ...], percent: float) -> float:
    """The value below which `percent` of the values lie, interpolated linearly between neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def own_times(turn: Sequence[tuple[float, float]], waited: bool, interrupted: bool) -> list[float]:
    """The time of each run: by the clock, or, where another program took the processor, the processor's own time.

    That leaves out what other programs took. A run that waits, for other threads or a graphics card, takes longer than
    the processor's time, so there the clock counts in any case.
    """
    return [processor if interrupted and not waited else clock for clock, processor in turn]


def _lap(run: Callable[[], object]) -> tuple[float, float]:
    """Milliseconds of a run: by the clock, and of the processor."""
    busy, start = time.process_time_ns(), time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) * 1e-6, (time.process_time_ns() - busy) * 1e-6


def _switches() -> tuple[int, int]:
    """How often this process has lost the processor so far: because it waited, and because another program took it."""
    if resource is None:
        return 0, 0
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_nvcsw, usage.ru_nivcsw


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) * 1e-9
