"""podar inspect: groups, costs and frozen axes of a model, on the screen, as JSON, or as a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podar.cli.app import app
from podar.cli.options import Model, ModelArg, Modules, Trust, Weights
from podar.cli.output import common, print_json, working


@app.command()
def inspect(
    model: Model,
    weights: Weights = None,
    model_arg: ModelArg = None,
    module: Modules = None,
    trust: Trust = False,
    explain: Annotated[
        str | None, typer.Option(metavar="NAME", help="Everything about one module or parameter.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Write a picture of the groups over the network.")
    ] = None,
) -> None:
    """Show what can be pruned, what it costs, and what is frozen and why."""
    from podar.cli import console
    from podar.files import write_atomic
    from podar.reports.anatomy import anatomy
    from podar.sources.naming import parse_model_args
    from podar.sources.opening import open_source

    with working("trace"):
        source = open_source(
            model, weights=weights, model_args=parse_model_args(model_arg or ()), modules=module or (), trust=trust
        )
        built, inputs = source.model, source.inputs()
        graph = source.workshop.trace(built, inputs)
        numbered = source.workshop.blocks(built)
        found = anatomy(graph, model=model, inputs=inputs, numbered=numbered, notes=source.notes)
    if picture is not None:
        from podar.reports.picture import draw

        write_atomic(picture, draw(found))
    if explain is not None:
        text = graph.explain(explain)
        print_json({"explanation": text}) if common.json else console.out().print(text, markup=False)
        return
    if common.json:
        print_json(found)
        return
    for piece in console.anatomy_table(found):
        console.out().print(piece)
