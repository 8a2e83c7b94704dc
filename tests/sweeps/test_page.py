"""The page of a sweep holds every figure of its summary, marks the knee, needs no script and no network."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path

from podar.sweeps.collecting import fronts_of, knee_of
from podar.sweeps.page import plotted, render, write
from podar.sweeps.summary import COSTS, CurvePoint, Died, PointKey, Series, SweepSummary


def point(name: str, series: Series, accuracy: float, macs: int, latency: float | None = None) -> CurvePoint:
    ratio = None if latency is None else latency / 4
    return CurvePoint(
        name=name, series=series, accuracy=accuracy, macs=macs, params=10, latency_ms=latency, latency_ratio=ratio,
        folder=name.replace(" ", "-"),
    )  # fmt: skip


POINTS = (
    point("dense", "dense", 0.93, 40_000_000, 4.0),
    point("16 px", "size", 0.5, 11_000_000, 1.1),
    point("macs=0.5", "cut", 0.91, 20_000_000, 2.5),
    point("macs=0.5", "trained", 0.928, 20_000_000, 2.5),
    point("macs=0.25", "cut", 0.87, 10_000_000, 1.5),
    point("macs=0.25", "trained", 0.91, 10_000_000, 1.5),
)


def summary(points: tuple[CurvePoint, ...] = POINTS) -> SweepSummary:
    return SweepSummary(
        title="net <on> data",
        quality="accuracy",
        points=points,
        fronts=fronts_of(points),
        knees={cost: knee_of(points, cost) for cost in COSTS},
        knee_rule="where it bends",
        failed=(Died(name="macs=0.01", reason="cannot be <reached>"),),
        facts={"model": "net"},
        command="podar pareto net",
        versions={"podar": "1"},
    )


def test_fronts_by_kind_with_the_dense_model_in_each() -> None:
    fronts = summary().fronts["macs"]
    names = {kind: [(place.name, place.series) for place in places] for kind, places in fronts.items()}
    assert names == {
        "cut": [("macs=0.25", "cut"), ("macs=0.5", "cut"), ("dense", "dense")],
        "trained": [("macs=0.25", "trained"), ("macs=0.5", "trained"), ("dense", "dense")],
        "untouched": [("16 px", "size"), ("dense", "dense")],
    }
    assert summary().knees["macs"] == PointKey(name="macs=0.5", series="trained")


def test_every_figure_stands_on_the_page(tmp_path: Path) -> None:
    found = summary()
    write(found, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    fields = dict(re.findall(r'data-field="(points\.[^"]+)" data-value="([^"]*)"', page))
    assert {f"points.{k}.{key}" for k in range(len(POINTS)) for key in ("accuracy", "macs", "latency_ms")} <= set(
        fields
    )
    for field, shown in fields.items():
        _, at, key = field.split(".")
        assert float(shown) == getattr(POINTS[int(at)], key)
    text = unescape(page)
    assert "knee: macs=0.5" in text and "cannot be <reached>" in text and "net <on> data" in text
    assert "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert page.count('id="show-') == 4  # one switch for each kind of point


def test_what_lies_far_below_does_not_squeeze_the_curve() -> None:
    near, every = plotted(summary(), "macs", near=True), plotted(summary(), "macs")
    assert near is not None and every is not None
    assert len(near.marks) == 5 and len(every.marks) == 6
    assert all(0 <= mark.x <= 100 and 0 <= mark.y <= 100 for mark in (*near.marks, *every.marks))
    assert 'id="view-near"' in render(summary())
    assert 'id="view-near"' not in render(summary(tuple(p for p in POINTS if p.series != "size")))


def test_a_sweep_of_which_everything_died_has_a_page_too() -> None:
    page = render(summary(()))
    assert "macs=0.01" in page and "polyline points" not in page
