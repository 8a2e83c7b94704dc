"""podar report: write the report of a finished run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podar.cli import curves
from podar.cli.app import app
from podar.cli.output import end


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run, or of a sweep.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: report.html in the run's folder.")] = None,
) -> None:
    """Write the report of a run, or of a sweep, again, and show its table."""
    from jinja2 import TemplateError

    from podar.errors import PodarError, first_line
    from podar.reports.summary import SUMMARY
    from podar.runs import finishing, running, sweeping
    from podar.sweeps.summary import is_sweep

    if is_sweep(folder):
        path = out or folder / finishing.REPORT
        curves.end(sweeping.write_report(folder, path), folder, path)
        return
    summary = running.summary(folder)
    path = out or folder / finishing.REPORT
    try:
        finishing.write_report(folder, path)
        end(summary, folder, path)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TemplateError) as error:
        if isinstance(error, PodarError):
            raise
        said = f"{type(error).__name__}: {first_line(error)[:100]}"
        raise PodarError(f"{folder / SUMMARY} is damaged ({said}): run the recipe again.") from error
