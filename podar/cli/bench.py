"""podar bench: latency and memory of models and files, measured in turn."""

from __future__ import annotations

from typing import Annotated

import typer

from podar.cli.app import app
from podar.cli.options import ModelArg, Modules, Seconds, Threads, Trust, Weights, complete_model, complete_runtimes
from podar.cli.output import common, print_json, working


@app.command()
def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL…",
            help="Models, exported files, or a run's folder (dense and pruned).",
            autocompletion=complete_model,
        ),
    ],
    weights: Weights = None,
    model_arg: ModelArg = None,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs at a time.")] = 1,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="NAME=SHAPE",
            help="An input's shape, as image=1x3x320x320; without NAME= where there is one input. May be repeated.",
        ),
    ] = None,
    runtime: Annotated[
        list[str] | None, typer.Option(help="Only this runtime; may be repeated.", autocompletion=complete_runtimes)
    ] = None,
    module: Modules = None,
    trust: Trust = False,
) -> None:
    """Measure latency and memory on every runtime at hand; models and files are run in turn."""
    from podar.cli import console
    from podar.measuring.shaping import parse_shapes
    from podar.sources.benching import bench_models
    from podar.sources.naming import parse_model_args

    with working("measure"):
        found = bench_models(
            models,
            weights=weights,
            model_args=parse_model_args(model_arg or ()),
            threads=threads,
            seconds=seconds,
            batch_size=batch_size,
            shapes=parse_shapes(shape or ()),
            runtimes=runtime or (),
            trust=trust,
        )
    if common.json:
        print_json(found)
        return
    for piece in console.bench_table(found):
        console.out().print(piece)
