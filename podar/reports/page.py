"""Renders a RunRecord as one HTML file: styles and pictures inside, no script, every text escaped."""

from __future__ import annotations

import os
from pathlib import Path

from markupsafe import Markup

from podar.files import write_atomic
from podar.reports import charts, headline, numbers
from podar.reports.record import RunRecord
from podar.reports.sections import Section, fill_template, rendered

_HERE = Path(__file__).parent


def write(record: RunRecord, path: str | os.PathLike[str], sections: tuple[Section, ...] = ()) -> None:
    """Write the report of a run to `path`, an HTML file that needs no other file and no network.

    **Arguments:** `sections`: what the stages of runs show, `podar.stages.sections()`.

    **Raises:** `PodarError` where the file cannot be written.

    ```python
    podar.reports.write(RunRecord.from_folder("runs/demo"), "runs/demo/report.html", podar.stages.sections())
    ```
    """
    write_atomic(path, render(record, sections))


def render(record: RunRecord, sections: tuple[Section, ...] = ()) -> str:
    """The report's HTML; `sections` as of `write`."""
    page = fill_template(
        _HERE / "page.html.jinja",
        record=record,
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        rows=headline.rows(record.before, record.after, record.latency_ratio),
        sentence=headline.sentence(record.before, record.after, record.latency_ratio),
        measured=_measured(record),
        sections=rendered((Section(40, against_cost), *sections), record),
    )
    return str(page)


def against_cost(record: RunRecord) -> Markup:
    """The section that every report has: accuracy against MACs and against latency."""
    name = record.quality
    macs = (
        None if _same_macs(record) else charts.against(record.points, "macs", "MACs of one input", numbers.count, name)
    )
    latency = charts.against(record.points, "latency_ms", "median latency", numbers.milliseconds, name)
    quality = name if record.detector else name.capitalize()
    return fill_template(_HERE / "cost.html.jinja", quality=quality, macs_chart=macs, latency_chart=latency)


def _measured(record: RunRecord) -> str:
    """On what the latency was measured, the same for both halves."""
    latency = record.after.get("latency_ms") or {}
    if "runtime" not in latency:
        return ""
    threads = latency.get("threads", 1)
    return f"{latency['runtime']}, {threads} thread{'s' if threads != 1 else ''}, dense and pruned in turn"


def _same_macs(record: RunRecord) -> bool:
    """Zeros leave the MACs as they were: a chart against them would show one column of points."""
    return "sparsity" in record.own and len({point.macs for point in record.points}) < 2
