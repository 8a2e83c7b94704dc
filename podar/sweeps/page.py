"""Renders the summary of a sweep as one HTML file. Its plots answer without a script: styles show, hide and join."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from podar.files import write_atomic
from podar.reports import charts, numbers
from podar.reports.sections import fill_template
from podar.sweeps.summary import COSTS, TITLES, CurvePoint, Series, SweepSummary

_HERE = Path(__file__).parent
_STYLE = _HERE.parent / "reports" / "page.css"
_TEXT: Mapping[str, Callable[[float], str]] = {"macs": numbers.count, "latency_ms": numbers.milliseconds}


@dataclass(frozen=True)
class PlottedPoint:
    """One point in a plot: its place in percent from the left and from the bottom. `index`: in the summary's list."""

    x: float
    y: float
    index: int
    point: CurvePoint
    labelled: bool
    knee: bool


@dataclass(frozen=True)
class Plot:
    """Quality against one cost: ticks, marks, and for each kind the line through its front, in a 100 × 100 box.

    `near`: it shows what lies near the pruned points; others may lie below it.
    """

    cost: str
    x_title: str
    y_title: str
    x_ticks: tuple[charts.Tick, ...]
    y_ticks: tuple[charts.Tick, ...]
    marks: tuple[PlottedPoint, ...]
    lines: Mapping[str, str]
    summary: str
    near: bool


def write(found: SweepSummary, path: str | os.PathLike[str]) -> None:
    """Write the page of a sweep to `path`: one file that needs no other and no network.

    **Raises:** `PodarError` where the file cannot be written.
    """
    write_atomic(path, render(found))


def render(found: SweepSummary) -> str:
    """The page's HTML."""
    views = (True, False) if _spread(found) else (False,)
    page = fill_template(
        _HERE / "pareto.html.jinja",
        sweep=found,
        style=Markup(_STYLE.read_text(encoding="utf-8")),
        plots=[plot for cost in COSTS for near in views if (plot := plotted(found, cost, near)) is not None],
        views=views,
        series={name: title for name, title in TITLES.items() if any(p.series == name for p in found.points)},
        titles=TITLES,
        sentence=sentence(found),
        ratio=numbers.ratio,
    )
    return str(page)


def sentence(found: SweepSummary) -> str:
    """The whole sweep in one sentence: what its knee costs and keeps."""
    for cost, name in (("latency_ms", "latency"), ("macs", "MACs")):
        place = found.knees.get(cost)
        dense = next((p for p in found.points if p.series == "dense"), None)
        if place is None or dense is None:
            continue
        point = found.point(place)
        kept = getattr(point, cost) / getattr(dense, cost)
        change = numbers.percentage_points(dense.accuracy, point.accuracy)
        return f"The knee is {point.name}: {100 * kept:.0f} % of the {name}, {change} of {found.quality}"
    count = len({p.name for p in found.points})
    return f"{count} model{'s' if count != 1 else ''}, and no knee among them"


def _spread(found: SweepSummary) -> bool:
    """Whether untouched models lie so far below the pruned ones that these would share a few pixels."""
    every, near = [p.accuracy for p in found.points], [p.accuracy for p in found.points if _is_near(p)]
    return bool(near) and min(near) - min(every) > max(near) - min(near)


def _is_near(point: CurvePoint) -> bool:
    return point.series in ("cut", "trained", "dense")


def plotted(found: SweepSummary, cost: str, near: bool = False) -> Plot | None:
    """The plot against one cost, of everything or of what lies `near` the pruned points; None of fewer than two."""
    own = [(at, p, float(getattr(p, cost))) for at, p in enumerate(found.points) if getattr(p, cost) is not None]
    if len(own) < 2:
        return None
    text, main = _TEXT[cost], _main(found)
    low, high = charts.padded([p.accuracy for _, p, _ in own if _is_near(p) or not near])
    right = 1.08 * max(x for _, _, x in own) or 1.0
    knee = found.knees.get(cost)
    at_knee = None if knee is None else found.point(knee)
    marks = tuple(
        PlottedPoint(
            100 * x / right, 100 * (p.accuracy - low) / (high - low), at, p, p.series in (main, "dense"), p is at_knee
        )
        for at, p, x in own
    )
    placed = {(mark.point.name, mark.point.series): (mark.x, 100 - mark.y) for mark in marks}
    marks = tuple(mark for mark in marks if 0 <= mark.y <= 100)  # lines to the others leave the plot
    return Plot(
        cost,
        COSTS[cost],
        found.quality,
        tuple(charts.Tick(100 * t / right, charts.axis_text(text(t)) if t else "0") for t in charts.ticks(0, right, 5)),
        tuple(charts.Tick(100 * (t - low) / (high - low), charts.short_percent(t)) for t in charts.ticks(low, high, 5)),
        marks,
        {
            kind: " ".join(f"{x:.2f},{y:.2f}" for x, y in (placed[p.name, p.series] for p in places))
            for kind, places in found.fronts.get(cost, {}).items()
        },
        f"{found.quality} against {COSTS[cost]}: "
        + "; ".join(f"{p.name} {TITLES[p.series]} {numbers.percent(p.accuracy)} at {text(x)}" for _, p, x in own),
        near,
    )


def _main(found: SweepSummary) -> Series:
    return "trained" if any(p.series == "trained" for p in found.points) else "cut"
