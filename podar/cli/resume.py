"""podar resume: go on with a run that was broken off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podar.cli.app import app
from podar.cli.options import Executor, Jobs, Modules, Trust
from podar.cli.output import end, working


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run or sweep that was broken off.")],
    module: Modules = None,
    trust: Trust = False,
    despite_changes: Annotated[
        bool, typer.Option("--despite-changes", help="Go on although data, code or weights are no longer the same.")
    ] = False,
    jobs: Jobs = 1,
    executor: Executor = "processes",
) -> None:
    """Go on with a run, or with a sweep of runs, that was broken off."""
    from podar.cli import curves
    from podar.runs import consent, running, sweeping
    from podar.sweeps.summary import is_sweep

    if is_sweep(folder):
        with working() as progress:
            found = sweeping.resume(
                folder, jobs=jobs, executor=executor, trust=trust, despite_changes=despite_changes, progress=progress
            )
        curves.end(found, folder)
        return

    consent.check_run(folder, trust)
    with working() as progress:
        summary = running.resume(folder, trust=trust, despite_changes=despite_changes, progress=progress)
    end(summary, folder)
