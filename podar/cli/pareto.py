"""podar pareto: accuracy against MACs and latency, over several targets, beside the untouched family."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from podar.cli import options, stage_commands
from podar.cli.app import app
from podar.cli.output import common, working
from podar.stages import stages


def _parameters() -> list[inspect.Parameter]:
    """The flags: its own, and those of the stages of which each point is made."""
    own: list[tuple[float, str, Any, Any]] = [
        (0, "model", options.Model, inspect.Parameter.empty),
        (1, "data", options.Data, inspect.Parameter.empty),
        (1, "targets", Targets, inspect.Parameter.empty),
        (2, "runtime", Runtime, None),
        (2, "family", Family, None),
        (2, "imgsz", Sizes, None),
        (2, "jobs", options.Jobs, 1),
        (2, "executor", options.Executor, "processes"),
        (3, "out", Out, None),
        (4, "weights", options.Weights, None),
        (4, "model_arg", options.ModelArg, None),
        (4, "module", options.Modules, None),
        (4, "trust", options.Trust, False),
        (5, "image_size", Side, None),
        (5, "threads", options.Threads, 1),
        (5, "seconds_each", Seconds, 3.0),
        (7, "seed", options.Seed, 0),
        (7, "deterministic", options.Deterministic, False),
    ]
    found = [(rank, stage_commands.parameter(name, annotation, default)) for rank, name, annotation, default in own]
    theirs = {option.option: option for option in reversed(_stage_options())}  # one flag serves all that bear its name
    for name, option in theirs.items():
        if name not in {parameter.name for _, parameter in found}:
            found.append((option.flag.rank + 0.5, option.parameter()))
    return [parameter for _, parameter in sorted(found, key=lambda ranked: ranked[0])]


def _stage_options() -> list[stage_commands.Typed]:
    """The flags of pruning and training; what must remain is `--targets`, and one `--runtime` serves all."""
    of = [option for name in ("prune", "finetune") for option in stage_commands.options_of(stages()[name])]
    return [option for option in of if option.option not in ("target", "runtime")]


Targets = Annotated[
    list[str],
    typer.Option(metavar="KIND=A,B,…", help="What must remain, one point each: macs=0.8,0.6,0.4. May be repeated."),
]
Runtime = Annotated[
    str | None,
    typer.Option(
        help="Where latency is measured. Default: onnxruntime, or torch where that is not installed.",
        autocompletion=options.complete_runtimes,
    ),
]
Family = Annotated[
    list[str] | None,
    typer.Option(
        metavar="MODEL[=FILE]",
        help="Another model, as it is, with its checkpoint; may be repeated.",
        autocompletion=options.complete_model,
    ),
]
Sizes = Annotated[
    list[str] | None, typer.Option("--imgsz", metavar="A,B,…", help="The untouched model at smaller input sizes.")
]
Side = Annotated[
    int | None, typer.Option("--image-size", min=1, metavar="PIXELS", help="Bring the images to this side.")
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="The sweep's folder. Default: runs/NAME-pareto.")]
Seconds = Annotated[
    float, typer.Option("--measure-seconds", min=0.01, metavar="S", help="Time spent measuring each model.")
]


def _pareto(**given: Any) -> None:
    from podar.cli import curves
    from podar.formats import measured_in
    from podar.runs import sweeping
    from podar.sources.naming import parse_model_args
    from podar.sweeps import points

    asked = {
        part: {o.option: o.value(given[o.option]) for o in _stage_options() if o.stage.name == part}
        for part in ("prune", "finetune")
    }
    runtime, format = measured_in(given["runtime"])
    asked["prune"]["runtime"] = given["runtime"]
    finetune = stages()["finetune"].options.from_flags(asked["finetune"], given["data"])
    model = {name: given[name] for name in ("model", "data", "weights", "image_size", "seed", "deterministic")}
    planned = points.pareto_points(
        {**model, "modules": given["module"] or (), "model_args": parse_model_args(given["model_arg"] or ())},
        points.parse(given["targets"]),
        prune=asked["prune"],
        finetune=finetune,
        format=format,
        family=given["family"] or (),
        sizes=points.parse_sizes(given["imgsz"] or ()),
    )
    with working() as progress:
        found, folder = sweeping.start(
            planned,
            given["out"],
            command=common.command,
            runtime=runtime,
            format=format,
            threads=given["threads"],
            seconds=given["seconds_each"],
            jobs=given["jobs"],
            executor=given["executor"],
            trust=given["trust"],
            progress=progress,
        )
    curves.end(found, folder)


def _command() -> None:
    parameters = _parameters()
    _pareto.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    _pareto.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    app.command("pareto", help="Draw accuracy against MACs and latency, with and without training.")(_pareto)


_command()
