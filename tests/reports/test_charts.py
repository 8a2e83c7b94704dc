"""Chart geometry: round ticks, points where their values are, labels that do not cover each other."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podar.reports import Point, charts, numbers

finite = st.floats(-1e6, 1e6, allow_nan=False)


@given(finite, st.floats(1e-3, 1e6), st.integers(2, 8))
def test_ticks_are_round_few_and_inside(low: float, span: float, count: int) -> None:
    high = low + span
    found = charts.ticks(low, high, count)
    assert len(found) <= count + 1
    air = 1e-6 * span + 1e-9 * abs(low) + 1e-11
    assert all(low - air <= tick <= high + air for tick in found)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    for step in steps:
        mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
        assert any(math.isclose(mantissa, round_one, rel_tol=1e-3) for round_one in (1, 2, 2.5, 5)), step


def test_a_point_lies_where_its_values_say() -> None:
    points = [Point("dense", "dense", 0.9, 100), Point("final", "final", 0.8, 50)]
    chart = charts.against(points, "macs", "MACs", numbers.count)
    assert chart is not None
    dense, final = chart.marks
    assert final.x == pytest.approx(dense.x / 2)
    assert dense.y > final.y
    places = {tick.text: tick.at for tick in chart.x_ticks}
    assert places["50"] == pytest.approx(final.x) and places["100"] == pytest.approx(dense.x)
    assert {t.text: t.at for t in chart.y_ticks}["90 %"] == pytest.approx(dense.y)


def test_one_point_is_no_chart() -> None:
    assert charts.against([Point("dense", "dense", 0.9, 100, 1.0)], "macs", "MACs", numbers.count) is None
    both = [Point("dense", "dense", 0.9, 100, 1.0), Point("cut", "cut", 0.9, 100)]
    assert charts.against(both, "latency_ms", "latency", numbers.milliseconds) is None


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(1, 10**9)), min_size=2, max_size=6))
def test_labels_never_share_a_height(values: list[tuple[float, int]]) -> None:
    points = [Point(f"p{i}", "peer", accuracy, macs) for i, (accuracy, macs) in enumerate(values)]
    chart = charts.against(points, "macs", "MACs", numbers.count)
    assert chart is not None
    assert [mark.index for mark in chart.marks] == list(range(len(points)))
    heights = sorted(mark.label_y * charts.HEIGHT / 100 for mark in chart.marks)
    assert all(b - a >= 33.9 for a, b in itertools.pairwise(heights))
    assert heights[-1] <= charts.HEIGHT


def test_axis_texts_say_no_needless_digits() -> None:
    points = [Point("a", "dense", 0.9, 40_000_000, 1.4), Point("b", "final", 0.8, 20_000_000, 0.9)]
    macs = charts.against(points, "macs", "MACs", numbers.count)
    latency = charts.against(points, "latency_ms", "latency", numbers.milliseconds)
    assert macs is not None and latency is not None
    assert [tick.text for tick in macs.x_ticks] == ["0", "20 M", "40 M"]
    assert [tick.text for tick in latency.x_ticks] == ["0", "0.5 ms", "1 ms", "1.5 ms"]


def test_epochs_without_a_finite_value_are_left_out() -> None:
    history = [{"epoch": 1, "loss": math.nan}, {"epoch": 2, "loss": 1.0}, {"epoch": 3, "loss": 0.5}, {"epoch": 4}]
    chart = charts.over_epochs(history, "loss", "loss", str)
    assert chart is not None
    assert [(mark.index, mark.x_value, mark.y_value) for mark in chart.marks] == [(1, 2, 1.0), (2, 3, 0.5)]
    assert charts.over_epochs(history, "val_accuracy", "accuracy", str) is None


def test_one_epoch_is_a_point_in_the_middle() -> None:
    chart = charts.over_epochs([{"epoch": 1, "loss": 2.0}], "loss", "loss", str)
    assert chart is not None
    assert [(mark.x, mark.y) for mark in chart.marks] == [(50.0, pytest.approx(50.0))]
