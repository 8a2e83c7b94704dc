"""Turns alternate, percentiles are percentiles, and the energy counter is read around the turns alone."""

from __future__ import annotations

import gc
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from podar.errors import UsageError
from podar.measuring.latency import own_times, percentile, time_in_turn, warm_up


def test_candidates_take_turns_to_the_end() -> None:
    ran: list[str] = []
    session = time_in_turn({name: lambda name=name: ran.append(name) for name in "abc"}, seconds=0.05)
    assert set(session.schedule) == set("abc")
    assert session.schedule == tuple("abc") * (len(session.schedule) // 3)
    assert len(session.schedule) >= 30
    # What was run, not only what was written down: after the warm-up, each stretch of one candidate is one turn.
    stretches = [name for name, before in zip(ran, ["", *ran]) if name != before]
    assert "".join(stretches).endswith("".join(session.schedule))


def test_samples_turns_and_percentiles_agree() -> None:
    session = time_in_turn({"sleep": lambda: time.sleep(0.002)}, seconds=0.1)
    timed = session.timed["sleep"]
    assert 2.0 <= min(timed.samples_ms) <= timed.p50 <= timed.p95 <= max(timed.samples_ms)
    assert len(timed.turns_ms) == len(session.schedule)
    assert min(timed.samples_ms) <= min(timed.turns_ms)
    assert timed.joules is None


def test_what_other_programs_took_counts_in_samples_and_not_in_turns() -> None:
    turn = [(5.0, 4.9), (17.0, 5.1)]
    assert own_times(turn, waited=False, interrupted=False) == [5.0, 17.0]
    assert own_times(turn, waited=False, interrupted=True) == [4.9, 5.1]
    assert own_times(turn, waited=True, interrupted=True) == [5.0, 17.0]  # for other threads, or a graphics card


def test_waiting_is_told_from_losing_the_processor() -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
    timed = time_in_turn({"sleeps": lambda: time.sleep(0.001)}, seconds=0.05).timed["sleeps"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw >= before + len(timed.samples_ms)
    assert min(timed.turns_ms) >= 1.0  # it waits by itself: the clock counts, not its processor's time


def test_a_slow_candidate_is_not_run_for_ever() -> None:
    runs = 0

    def slow() -> None:
        nonlocal runs
        runs += 1
        time.sleep(0.15)

    session = time_in_turn({"slow": slow}, seconds=0.05)
    assert 3 <= len(session.schedule) < 10
    assert runs < 25


def test_the_energy_of_a_run_is_what_the_counter_moved_in_its_turns() -> None:
    drawn = 0.0

    def costs(joules: float):
        def run() -> None:
            nonlocal drawn
            drawn += joules
            time.sleep(0.001)

        return run

    session = time_in_turn({"one": costs(1.0), "three": costs(3.0)}, seconds=0.1, read_joules=lambda: drawn)
    assert session.timed["one"].joules == pytest.approx(1.0)
    assert session.timed["three"].joules == pytest.approx(3.0)


@pytest.mark.parametrize("broken", [False, True])
def test_garbage_collection_rests_and_resumes(broken: bool) -> None:
    seen: list[bool] = []

    def run() -> None:
        seen.append(gc.isenabled())
        if broken and len(seen) > 20:
            raise RuntimeError("the model broke")

    if broken:
        with pytest.raises(RuntimeError):
            time_in_turn({"a": run}, seconds=0.01)
    else:
        time_in_turn({"a": run}, seconds=0.01)
    assert not any(seen)
    assert gc.isenabled()


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=50), st.floats(0, 100))
def test_percentile_is_numpys(values: list[float], percent: float) -> None:
    assert percentile(tuple(values), percent) == pytest.approx(np.percentile(values, percent), rel=1e-9, abs=1e-9)


def test_warm_up_gives_the_time_of_a_run() -> None:
    assert 0.005 <= warm_up(lambda: time.sleep(0.005)) < 1


@pytest.mark.parametrize(("runs", "seconds"), [({}, 1.0), ({"a": int}, 0.0), ({"a": int}, float("nan"))])
def test_nothing_to_measure(runs, seconds: float) -> None:
    with pytest.raises(UsageError):
        time_in_turn(runs, seconds=seconds)
