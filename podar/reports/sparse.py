"""What the report shows of sparse weights: zeros per layer, a histogram, ticket curves. Pure geometry."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from podar.reports import numbers
from podar.reports.charts import Tick, padded, short_percent, ticks

ARM_NAMES = {
    "ticket": "tickets",
    "reinit": "weights drawn anew",
    "random": "random masks",
    "finetune": "trained on, not rewound",
}


@dataclass(frozen=True)
class ZeroBar:
    """One layer: its zeros, and its place in summary.json."""

    name: str
    zeros: int
    weights: int
    text: str

    @property
    def percent(self) -> float:
        """Zeros in percent of the weights."""
        return 100 * self.zeros / self.weights if self.weights else 0.0


def zero_bars(sparsity: Mapping[str, Any]) -> list[ZeroBar]:
    """The zeros of every layer, in the model's order."""
    return [
        ZeroBar(
            layer["name"], layer["zeros"], layer["weights"], f"{100 * layer['zeros'] / max(1, layer['weights']):.1f} %"
        )
        for layer in sparsity.get("layers", ())
    ]


@dataclass(frozen=True)
class Histogram:
    """Two outlines over the weights' values in a 100 × 100 box, y downwards, and the words beside them."""

    before: str
    after: str
    x_ticks: tuple[Tick, ...]
    summary: str


def histogram(data: Mapping[str, Any]) -> Histogram | None:
    """Outlines of the nonzero weights' counts, on a root scale, since few remain beside many; None without data."""
    if not data:
        return None
    low, high = data["low"], data["high"]
    top = math.sqrt(max(*data["before"], *data["after"], 1)) * 1.05
    outlines = {half: _steps([100 * math.sqrt(c) / top for c in data[half]]) for half in ("before", "after")}
    zeros = (
        f"{numbers.count(data['before_zeros'])} weights were zero before, {numbers.count(data['after_zeros'])} after"
    )
    return Histogram(
        outlines["before"],
        outlines["after"],
        tuple(Tick(100 * (t - low) / (high - low), f"{t:g}".replace("-", "−")) for t in ticks(low, high, 6)),
        zeros,
    )


@dataclass(frozen=True)
class TicketMark:
    """One round of one arm: place in percent, half the height of its error bar, the exact values."""

    x: float
    y: float
    error: float
    index: int
    density: float
    accuracy: float
    text: str


@dataclass(frozen=True)
class TicketLine:
    """One arm of a search."""

    arm: str
    name: str
    line: str
    marks: tuple[TicketMark, ...]
    smallest: float | None


@dataclass(frozen=True)
class TicketChart:
    """Accuracy against the share of weights that remain, on a logarithmic scale, dense at the left."""

    lines: tuple[TicketLine, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    dense: float
    summary: str


def ticket_chart(tickets: Mapping[str, Any]) -> TicketChart | None:
    """The curves of a ticket search; None where fewer than two rounds were trained to their end."""
    curves: Mapping[str, Sequence[Mapping[str, Any]]] = tickets.get("curves", {})
    points = [p for curve in curves.values() for p in curve]
    if len({p["density"] for p in points}) < 2:
        return None
    low, high = padded([v for p in points for v in (p["accuracy"] - p["error"], p["accuracy"] + p["error"])])
    least = min(p["density"] for p in points)

    def across(density: float) -> float:
        return 96 * math.log(density) / math.log(least) + 2

    def up(accuracy: float) -> float:
        return 100 * (accuracy - low) / (high - low)

    lines = []
    for arm, curve in curves.items():
        marks = tuple(
            TicketMark(
                across(p["density"]),
                up(p["accuracy"]),
                100 * p["error"] / (high - low),
                index,
                p["density"],
                p["accuracy"],
                f"{100 * p['accuracy']:.2f} ± {100 * p['error']:.2f} % at {100 * p['density']:.3g} % of the weights, "
                f"{p['seeds']} seed{'s' if p['seeds'] != 1 else ''}",
            )
            for index, p in enumerate(curve)
        )
        line = " ".join(f"{m.x:.2f},{100 - m.y:.2f}" for m in marks)
        lines.append(TicketLine(arm, ARM_NAMES.get(arm, arm), line, marks, tickets.get("smallest", {}).get(arm)))
    first = next(p for p in points if p["round"] == 0) if any(p["round"] == 0 for p in points) else points[0]
    marked = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2) if least > 0.15 else (1.0, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002)
    shown = [d for d in marked if d >= least * 0.999]
    return TicketChart(
        tuple(lines),
        tuple(Tick(across(d), f"{100 * d:g} %") for d in shown),
        tuple(Tick(up(t), short_percent(t)) for t in ticks(low, high, 5)),
        up(first["accuracy"]),
        "Accuracy against the share of weights that remain: "
        + "; ".join(f"{line.name} {line.marks[-1].text}" for line in lines if line.marks),
    )


def _steps(heights: Sequence[float]) -> str:
    """The outline of bars of equal width, closed at the bottom."""
    width = 100 / len(heights)
    places = ["0,100"]
    for k, height in enumerate(heights):
        places += [f"{k * width:.2f},{100 - height:.2f}", f"{(k + 1) * width:.2f},{100 - height:.2f}"]
    return " ".join([*places, "100,100"])
