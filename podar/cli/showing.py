"""Commands that look at a model, a file or a run: inspect, export, bench, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from podar.cli.app import app, common, end, print_json, working
from podar.cli.options import (
    Data,
    ImageSize,
    Model,
    ModelArg,
    Modules,
    Seconds,
    Threads,
    Trust,
    Weights,
    complete_formats,
    complete_model,
    complete_runtimes,
)


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
    from podar.cli.inspection import anatomy
    from podar.files import write_atomic
    from podar.sources.naming import parse_model_args
    from podar.sources.opening import open_source

    with working("trace"):
        source = open_source(
            model, weights=weights, model_args=parse_model_args(model_arg or ()), modules=module or (), trust=trust
        )
        found, graph = anatomy(source, model)
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
    for piece in console.anatomy(found):
        console.out().print(piece)


@app.command()
def export(
    model: Model,
    format: Annotated[str, typer.Option(help="The file's format.", autocompletion=complete_formats)] = "onnx",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: the model's name.")] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    data: Data = None,
    module: Modules = None,
    trust: Trust = False,
    image_size: ImageSize = None,
) -> None:
    """Write a deployable file and check it against the model; with --data on real inputs."""
    from podar.cli import console
    from podar.cli.inspection import export_file
    from podar.sources.naming import parse_model_args
    from podar.sources.opening import open_source

    with working("export"):
        source = open_source(
            model,
            data,
            weights=weights,
            model_args=parse_model_args(model_arg or ()),
            modules=module or (),
            trust=trust,
            image_size=image_size,
        )
        exported = export_file(source, format, out)
    if common.json:
        print_json(exported)
    else:
        console.out().print(
            f"{exported['file']}: {exported['bytes']:,} bytes, agrees with the model to {exported['parity']:.1e} "
            f"in {exported['runtime']}.",
            markup=False,
        )


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
    from podar.cli.benchmarking import bench_models, parse_shapes
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
    for piece in console.measured(found):
        console.out().print(piece)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: report.html in the run's folder.")] = None,
) -> None:
    """Write a run's report again, and show its table."""
    from jinja2 import TemplateError

    from podar import reports
    from podar.errors import PodarError, first_line
    from podar.runs import running

    summary = running.summary(folder)
    path = out or folder / running.REPORT
    try:
        reports.write(reports.RunRecord.from_folder(folder), path)
        end(summary, folder, path)
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError, TemplateError) as error:
        if isinstance(error, PodarError):
            raise
        said = f"{type(error).__name__}: {first_line(error)[:100]}"
        raise PodarError(f"{folder / running.SUMMARY} is damaged ({said}): run the recipe again.") from error
