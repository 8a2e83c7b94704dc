"""The page of `podar sensitivity`: a small plot and a row of figures for each group, from plain data."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from podar.files import write_atomic
from podar.reports.sections import fill_template

SENSITIVITY = "sensitivity.json"
_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Plot:
    """One group: lines of the error over the fraction that is kept, in a 100 × 100 box, and how large the error gets.

    `at`: the group's place in the file, for the hooks that tests read.
    """

    at: int
    group: Mapping[str, Any]
    lines: Mapping[str, str]
    worst: float


def write(found: Mapping[str, Any], folder: Path) -> None:
    """Write sensitivity.json and report.html.

    **Arguments:** `found`: what `podar.sensitivity(...).to_json()` gives, with `title`, `command` and `versions`.

    **Raises:** `PodarError` where the folder cannot be written.
    """
    write_atomic(folder / "report.html", render(found))
    write_atomic(folder / SENSITIVITY, json.dumps(found, indent=1, ensure_ascii=False) + "\n")


def render(found: Mapping[str, Any]) -> str:
    """The page's HTML. All plots have one scale, so that heights can be compared; the most sensitive groups first."""
    groups: Sequence[Mapping[str, Any]] = found["groups"]
    top = max([min(1.0, _worst(group)) for group in groups], default=0.0) or 1.0
    plots = [
        Plot(at, group, {kind: _line(group, kind, top) for kind in ("plain", "compensated")}, _worst(group))
        for at, group in enumerate(groups)
    ]
    page = fill_template(
        _HERE / "sensitivity.html.jinja",
        found=found,
        plots=sorted(plots, key=lambda plot: -plot.worst),
        top=top,
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
    )
    return str(page)


def _line(group: Mapping[str, Any], kind: str, top: float) -> str:
    """From the whole group, which costs nothing, to its smallest cut; what is not known ends the line."""
    places = [(100.0, 0.0)]
    for cut in group["cuts"]:
        if cut[kind] is not None:
            places.append((100 * cut["kept"], 100 * min(1.0, cut[kind] / top)))
    return " ".join(f"{x:.2f},{100 - y:.2f}" for x, y in places) if len(places) > 1 else ""


def _worst(group: Mapping[str, Any]) -> float:
    """The error at the smallest cut, once its readers are solved where they can be."""
    if not group["cuts"]:
        return 0.0
    last = group["cuts"][-1]
    known = [value for value in (last["plain"], last["compensated"]) if value is not None]
    return min(known, default=float("inf"))
