"""How the commands of sweeps end: a table of all points or the summary as JSON; exit code 1 where points died."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.table import Table
from rich.text import Text

from podar.cli import console
from podar.cli.output import common, print_json

if TYPE_CHECKING:
    from podar.sweeps.summary import SweepSummary


def end(found: SweepSummary, folder: Path, report: Path | None = None) -> None:
    """The end of a sweep.

    **Raises:** `typer.Exit` with code 1 where points died.
    """
    from podar.runs import finishing
    from podar.runs.folder import resume_command

    if common.json:
        print_json(found.model_dump(mode="json"))
    else:
        screen = console.out()
        for piece in drawn(found):
            screen.print(piece)
        screen.print(f"Report: {report or folder / finishing.REPORT}", markup=False, soft_wrap=True)
    if found.failed:
        told = "; ".join(f"{point.name} ({point.reason})" for point in found.failed)
        count = f"{len(found.failed)} point{'s' if len(found.failed) > 1 else ''} died"
        console.fail(f"{count}: {told}; the others are kept, and {resume_command(folder)} tries again.")
        raise typer.Exit(1)


def drawn(found: SweepSummary) -> Iterator[Any]:
    """Every point in one table, what lies on a front and where the knees are, and what the reader should know."""
    from podar.reports import numbers
    from podar.sweeps.summary import COSTS, TITLES

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("", overflow="fold")
    table.add_column("")
    for name in (found.quality, "MACs", "parameters", "latency", "of dense", "front of"):
        table.add_column(name, justify="left" if name == "front of" else "right")
    named = {"macs": "MACs", "latency_ms": "latency"}
    fronts = {
        cost: {(place.name, place.series) for places in kinds.values() for place in places}
        for cost, kinds in found.fronts.items()
    }
    for point in found.points:
        own = (point.name, point.series)
        knees = {c for c, place in found.knees.items() if place is not None and (place.name, place.series) == own}
        on = [f"{named[c]}{' (knee)' if c in knees else ''}" for c in COSTS if own in fronts.get(c, ()) or c in knees]
        table.add_row(
            point.name,
            Text(TITLES[point.series], style="dim"),
            Text(numbers.percent(point.accuracy), style="bold"),
            numbers.count(point.macs),
            "–" if point.params is None else numbers.count(point.params),
            "–" if point.latency_ms is None else numbers.milliseconds(point.latency_ms),
            numbers.ratio(point.latency_ratio),
            Text(", ".join(on), style="green" if knees else ""),
        )
    yield table
    if found.latency:
        threads = "one thread" if found.latency["threads"] == 1 else f"{found.latency['threads']} threads"
        yield Text(f"Latency in {found.latency['runtime']}, {threads}, all points in turn.", style="dim")
    if any(found.knees.values()):
        yield Text(f"Knee: {found.knee_rule}.", style="dim")
    for note in found.notes:
        yield Text(console.on_one_line(note), style="dim")
