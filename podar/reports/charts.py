"""Geometry of the charts: where ticks, points and lines lie, in percent of the plot. Pure; the page draws it.

Positions are percentages, text is HTML: a chart stretches to any width while its letters keep their size, so the same
page is readable on a phone and on a wide screen, without a script. Heights are fixed, in pixels.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from podar.reports import numbers
from podar.reports.summary import Point

HEIGHT = 240  # pixels; page.css sets the same
_LABEL_HEIGHT = 34  # pixels that a point's two lines of text take


@dataclass(frozen=True)
class Tick:
    """A mark on an axis: `at` in percent of its length."""

    at: float
    text: str


@dataclass(frozen=True)
class PlottedPoint:
    """One point: its place in percent from the left and from the bottom, its two values, and where its label goes.

    `index` is its place in the record's list (`points` or `history`), for the hooks that tests read.
    """

    x: float
    y: float
    index: int
    name: str
    stage: str
    x_value: float
    y_value: float
    x_text: str
    y_text: str
    side: str = "right"
    label_y: float = 0.0


@dataclass(frozen=True)
class Chart:
    """A plot: ticks of both axes, its marks or lines, and the words for those who cannot see it.

    `source`, `x_key` and `y_key` name the list and the keys of summary.json that the marks come from.
    """

    source: str
    x_key: str
    y_key: str
    x_title: str
    y_title: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    marks: tuple[PlottedPoint, ...] = ()
    lines: tuple[str, ...] = ()  # polylines in a 100 × 100 box, y downwards
    summary: str = ""


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """At most `count` + 1 round numbers from `low` to `high`, steps of 1, 2, 2.5 or 5 times a power of ten.

    ```python
    >>> ticks(0, 41, 4)
    [0.0, 20.0, 40.0]

    ```
    """
    if not high > low:
        return [low]
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(s * power for s in (1, 2, 2.5, 5, 10) if s * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def against(
    points: Sequence[Point], key: str, x_title: str, text: Callable[[float], str], quality: str = "accuracy"
) -> Chart | None:
    """Accuracy of every point against a cost of it; None where fewer than two points have that cost.

    **Arguments:** `key`: the cost's name, `"macs"` or `"latency_ms"`. `text`: how to print it.
    `quality`: what the accuracy is called.
    """
    costed = [(i, p, cost) for i, p in enumerate(points) if (cost := getattr(p, key)) is not None]
    if len(costed) < 2:
        return None
    low, high = padded([point.accuracy for _, point, _ in costed])
    right = 1.12 * max(cost for _, _, cost in costed) or 1.0
    marks = [
        PlottedPoint(
            x=100 * cost / right,
            y=100 * (point.accuracy - low) / (high - low),
            index=index,
            name=point.name,
            stage=point.stage,
            x_value=cost,
            y_value=point.accuracy,
            x_text=text(cost),
            y_text=numbers.percent(point.accuracy),
        )
        for index, point, cost in costed
    ]
    return Chart(
        "points",
        key,
        "accuracy",
        x_title,
        quality,
        tuple(Tick(100 * t / right, axis_text(text(t)) if t else "0") for t in ticks(0, right, 4)),
        tuple(Tick(100 * (t - low) / (high - low), short_percent(t)) for t in ticks(low, high, 5)),
        marks=tuple(_spread(marks)),
        lines=(_path([(mark.x, mark.y) for mark in marks if mark.stage != "peer"]),),
        summary=f"{quality[:1].upper()}{quality[1:]} against {x_title}: "
        + "; ".join(f"{m.name} {m.y_text} at {m.x_text}" for m in marks),
    )


def over_epochs(
    history: Sequence[Mapping[str, float]], key: str, y_title: str, text: Callable[[float], str]
) -> Chart | None:
    """One value of the training over the epochs; None where no epoch has it.

    **Arguments:** `key`: the value's name in each epoch. `text`: how to print it on the axis and at the points.
    """
    known = [
        (i, e["epoch"], e[key]) for i, e in enumerate(history) if "epoch" in e and math.isfinite(e.get(key, math.nan))
    ]
    if not known:
        return None
    low, high = padded([value for _, _, value in known])
    first, last = known[0][1], known[-1][1]

    def along(epoch: float) -> float:
        return 100 * (epoch - first) / (last - first) if last > first else 50.0

    marks = [
        PlottedPoint(
            x=along(epoch),
            y=100 * (value - low) / (high - low),
            index=index,
            name=f"epoch {epoch:g}",
            stage="epoch",
            x_value=epoch,
            y_value=value,
            x_text=f"epoch {epoch:g}",
            y_text=text(value),
        )
        for index, epoch, value in known
    ]
    whole = [t for t in ticks(first, last, 6) if t == int(t)] or [first]
    return Chart(
        "history",
        "epoch",
        key,
        "epoch",
        y_title,
        tuple(Tick(along(t), f"{t:g}") for t in whole),
        tuple(Tick(100 * (t - low) / (high - low), text(t)) for t in ticks(low, high, 4)),
        marks=tuple(marks),
        lines=(_path([(mark.x, mark.y) for mark in marks]),),
        summary=f"{y_title} over {len(marks)} epochs: from {marks[0].y_text} to {marks[-1].y_text}",
    )


def padded(values: Sequence[float]) -> tuple[float, float]:
    """A range around the values with air above and below, so that no point sits on the frame."""
    low, high = min(values), max(values)
    air = 0.15 * (high - low) or max(0.1 * abs(high), 0.01)
    return low - air, high + air


def _path(places: Sequence[tuple[float, float]]) -> str:
    return " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in places)


def _spread(marks: list[PlottedPoint]) -> list[PlottedPoint]:
    """Give each label the side with more room, and push labels apart, up and down, where they would overlap.

    How wide a label is depends on the reader's window, so two labels never share a height.
    """
    need = 100 * _LABEL_HEIGHT / HEIGHT
    order = sorted(marks, key=lambda m: m.y)
    heights: list[float] = []
    for mark in order:
        heights.append(max(mark.y, heights[-1] + need if heights else need / 2))
    ceiling = 100 - need / 2
    for i in range(len(order) - 1, -1, -1):
        heights[i] = min(heights[i], ceiling)
        ceiling = heights[i] - need
    placed = [replace(m, side="left" if m.x > 55 else "right", label_y=h) for m, h in zip(order, heights)]
    return sorted(placed, key=lambda m: m.index)


def axis_text(text: str) -> str:
    """ "20.0 M" → "20 M": a scale says no more digits than its round numbers have."""
    return re.sub(r"(\.\d*?)0+(?=\D|$)", r"\1", text).replace(". ", " ") if "." in text else text


def short_percent(fraction: float) -> str:
    """0.925 → "92.5 %"."""
    return f"{round(100 * fraction, 4):g} %"
