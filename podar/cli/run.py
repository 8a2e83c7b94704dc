"""podar run: carry out a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podar.cli.app import app
from podar.cli.options import Modules, Out, Trust
from podar.cli.output import run_recipe


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The stages, in YAML.")],
    out: Out = None,
    module: Modules = None,
    trust: Trust = False,
) -> None:
    """Carry out a recipe."""
    from podar.runs import consent
    from podar.runs.recipe import read

    planned = read(recipe)
    consent.check_recipe(planned, str(recipe), trust)
    run_recipe(planned, out, trust=trust)
