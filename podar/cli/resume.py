"""podar resume: go on with a run that was broken off."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podar.cli.app import app
from podar.cli.options import Modules, Trust
from podar.cli.output import end, working


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was broken off.")],
    module: Modules = None,
    trust: Trust = False,
    despite_changes: Annotated[
        bool, typer.Option("--despite-changes", help="Go on although data, code or weights are no longer the same.")
    ] = False,
) -> None:
    """Go on with a run that was broken off."""
    from podar.runs import consent, running

    consent.check_run(folder, trust)
    with working() as progress:
        summary = running.resume(folder, trust=trust, despite_changes=despite_changes, progress=progress)
    end(summary, folder)
