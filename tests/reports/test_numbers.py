"""Numbers as people read them."""

from __future__ import annotations

import pytest

from podar.reports import numbers


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (1000, "1.00 k"),
        (999_600, "1.00 M"),
        (272_474, "272 k"),
        (40_813_184, "40.8 M"),
        (3e12, "3.00 T"),
    ],
)
def test_counts(value: float, text: str) -> None:
    assert numbers.count(value) == text


@pytest.mark.parametrize(("value", "text"), [(0, "0 B"), (512, "512 B"), (1_104_512, "1.10 MB"), (50_000, "50.0 kB")])
def test_sizes(value: float, text: str) -> None:
    assert numbers.byte_size(value) == text


@pytest.mark.parametrize(
    ("value", "text"), [(0.0421, "0.042 ms"), (0.94, "0.940 ms"), (12.345, "12.3 ms"), (2500, "2.50 s")]
)
def test_milliseconds(value: float, text: str) -> None:
    assert numbers.milliseconds(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.031, "31.0 ms"), (9.5, "9.50 s"), (75.2, "1 min 15 s"), (59.99, "60.0 s"), (3725, "1 h 02 min")],
)
def test_durations(value: float, text: str) -> None:
    assert numbers.duration(value) == text


def test_changes() -> None:
    assert numbers.ratio(0.5) == "0.50×"
    assert numbers.ratio(None) == "–"
    assert numbers.percentage_points(0.93, 0.92) == "−1.00 pts"
    assert numbers.percentage_points(0.92, 0.93) == "+1.00 pts"
    assert numbers.percentage_points(0.93, 0.93) == "±0.00 pts"
    assert numbers.percent(0.93125) == "93.12 %"
