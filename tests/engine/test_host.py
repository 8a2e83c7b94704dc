"""Reasons are counted by kind; both sides are timed in turn."""

from __future__ import annotations

from podar.engine.host import by_kind, fastest_times


def test_reasons_are_counted_by_kind() -> None:
    assert by_kind([("Add", "a"), ("Gemm", "b"), ("Add", "c")]) == {"Add": (2, "c"), "Gemm": (1, "b")}
    assert by_kind([]) == {}


def test_runs_take_turns_and_the_fastest_counts() -> None:
    seen: list[str] = []
    found = fastest_times(lambda: seen.append("engine"), lambda: seen.append("host"), times=3)
    assert seen == ["engine", "host"] * 3
    assert len(found) == 2 and all(0 <= milliseconds < 1e3 for milliseconds in found)
