"""Commands that leave a run's folder: demo, prune, sparsify, ticket, run, resume."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from podar.cli.app import app, common, end, working
from podar.cli.options import (
    Data,
    Deterministic,
    Epochs,
    Exports,
    ImageSize,
    Model,
    ModelArg,
    Modules,
    NoDistill,
    Out,
    Precision,
    Protect,
    Rate,
    Seed,
    Stop,
    Threads,
    Trust,
    WeightImportance,
    Weights,
    WeightScope,
    complete_importances,
    complete_scopes,
)
from podar.errors import UsageError


@app.command()
def demo(
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA", help="fashion-mnist-demo travels with podar; fashion-mnist has all 70,000 images."
        ),
    ] = "fashion-mnist-demo",
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where to; an earlier demo there gives way.")] = Path(
        "runs/demo"
    ),
) -> None:
    """The whole story on real photographs, offline, in minutes."""
    from podar.stages import recipes

    _run(recipes.demo(data), out, replace=True)


@app.command()
def prune(
    model: Model,
    target: Annotated[
        str | None,
        typer.Option(
            metavar="KIND=AMOUNT",
            help="What must remain: macs=0.5, channels=0.5, params=2M, bytes=300k, memory=0.6. Needed unless --ratios.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…", help="YOLO: any further argument of Ultralytics' trainer.", show_default=False
        ),
    ] = None,
    data: Data = None,
    epochs: Epochs = 5,
    export: Exports = None,
    out: Out = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    module: Modules = None,
    trust: Trust = False,
    importance: Annotated[
        str | None,
        typer.Option(
            help="What a channel's worth is judged by. Default: magnitude; YOLO with --data: taylor.",
            autocompletion=complete_importances,
        ),
    ] = None,
    scope: Annotated[
        str, typer.Option(help="Who competes: global, local or isomorphic.", autocompletion=complete_scopes)
    ] = "global",
    ratios: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER=KEPT", help="A fraction to keep of one layer (patterns work); may be repeated."),
    ] = None,
    protect: Protect = None,
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="Only this part may be cut; may be repeated.")
    ] = None,
    outputs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH", help="An output that must keep its shape (0, logits); may be repeated. Default: all."
        ),
    ] = None,
    multiple_of: Annotated[
        str,
        typer.Option(
            metavar="N",
            help="Round widths to multiples of this. auto, for targets of cost: 8 from 16 units on, 4 below.",
        ),
    ] = "auto",
    depth: Annotated[
        bool, typer.Option("--depth", help="Whole residual blocks may go too, each weighed like one more unit.")
    ] = False,
    lr: Rate = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step of fine-tuning. Default: 128; YOLO: Ultralytics' own.")
    ] = None,
    seconds: Stop = None,
    no_distill: NoDistill = False,
    image_size: ImageSize = None,
    threads: Threads = 1,
    precision: Precision = None,
    seed: Seed = 0,
    deterministic: Deterministic = False,
) -> None:
    """Prune a model, recover its accuracy, export it, measure it before and after, and report."""
    from podar.sources.naming import parse_model_args

    stages: list[dict[str, Any]] = [
        {
            "prune": {
                "target": target,
                "importance": importance,
                "scope": scope,
                "ratios": _ratios(ratios or ()),
                "protect": protect or (),
                "only": only or (),
                "outputs": outputs or (),
                "multiple_of": _whole(multiple_of),
                "depth": depth,
            }
        }
    ]
    if settings and not (epochs and data is not None):
        raise UsageError(
            f"{settings[0]} is an argument of training, and nothing is trained without --data and --epochs."
        )
    stages += _finetuning(
        data, epochs=epochs, lr=lr, batch_size=batch_size, seconds=seconds, distill=not no_distill,
        precision=precision, settings=parse_model_args(settings or (), option=""),
    )  # fmt: skip
    _start(
        "podar prune", stages, out, model=model, model_arg=model_arg, weights=weights, data=data,
        image_size=image_size, seed=seed, deterministic=deterministic, export=export, threads=threads,
        modules=module, trust=trust,
    )  # fmt: skip


@app.command()
def sparsify(
    model: Model,
    amount: Annotated[
        float | None, typer.Option(help="Fraction of the weights that becomes zero; N:M patterns fix it.")
    ] = None,
    pattern: Annotated[
        str, typer.Option(help="unstructured, N:M such as 2:4, or blocks of outputs x inputs such as 4x1.")
    ] = "unstructured",
    data: Data = None,
    epochs: Epochs = 5,
    schedule: Annotated[
        str | None,
        typer.Option(help="Reach the amount while training: one-shot, iterative, cubic or rigl. Default: before it."),
    ] = None,
    reconstruct: Annotated[
        bool, typer.Option("--reconstruct", help="Let what stays take over, from pictures without labels.")
    ] = False,
    permute: Annotated[
        bool, typer.Option("--permute", help="Reorder channels first, so that N:M keeps more; same outputs.")
    ] = False,
    scope: WeightScope = "global",
    importance: WeightImportance = "magnitude",
    amounts: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER=AMOUNT", help="The amount of one layer (patterns work); may be repeated."),
    ] = None,
    protect: Protect = None,
    export: Exports = None,
    out: Out = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    module: Modules = None,
    trust: Trust = False,
    lr: Rate = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step of fine-tuning. Default: 128.")] = None,
    seconds: Stop = None,
    no_distill: NoDistill = False,
    image_size: ImageSize = None,
    threads: Threads = 1,
    precision: Precision = None,
    seed: Seed = 0,
    deterministic: Deterministic = False,
) -> None:
    """Make most weights zero, recover the accuracy, write a small checkpoint, and report."""
    stages: list[dict[str, Any]] = [
        {
            "sparsify": {
                "amount": amount,
                "pattern": pattern,
                "scope": scope,
                "importance": importance,
                "amounts": _ratios(amounts or (), option="--amounts"),
                "protect": protect or (),
                "permute": permute,
                "reconstruct": reconstruct,
                "schedule": schedule,
            }
        }
    ]
    stages += _finetuning(
        data, epochs=epochs, lr=lr, batch_size=batch_size, seconds=seconds, distill=not no_distill, precision=precision
    )
    _start(
        "podar sparsify", stages, out, model=model, model_arg=model_arg, weights=weights, data=data,
        image_size=image_size, seed=seed, deterministic=deterministic, export=export, threads=threads,
        modules=module, trust=trust,
    )  # fmt: skip


@app.command()
def ticket(
    model: Model,
    data: Data = None,
    rounds: Annotated[int, typer.Option(min=1, help="How often weights are removed.")] = 10,
    amount: Annotated[float, typer.Option(help="Fraction of the remaining weights that goes each round.")] = 0.2,
    rewind: Annotated[
        int, typer.Option(min=0, metavar="STEPS", help="Rewind to these steps of the dense training; 0: to the start.")
    ] = 0,
    seeds: Annotated[int, typer.Option(min=1, help="Searches, each with weights of its own.")] = 3,
    control: Annotated[
        list[str] | None, typer.Option(help="reinit, random or finetune, beside the tickets; may be repeated.")
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Controls run at every so many rounds, and at the last.")] = 1,
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each training.")] = 5,
    early_bird: Annotated[
        float | None, typer.Option(metavar="DISTANCE", help="Break trainings off once their mask settles, e.g. 0.1.")
    ] = None,
    scope: WeightScope = "global",
    importance: WeightImportance = "magnitude",
    protect: Protect = None,
    export: Exports = None,
    out: Out = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    module: Modules = None,
    trust: Trust = False,
    lr: Rate = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step of training.")] = 128,
    image_size: ImageSize = None,
    threads: Threads = 1,
    seed: Seed = 0,
    deterministic: Deterministic = False,
) -> None:
    """Search a winning lottery ticket: train, remove, rewind, repeat; with controls and several seeds."""
    stages: list[dict[str, Any]] = [
        {
            "ticket": {
                "rounds": rounds,
                "amount": amount,
                "rewind": rewind,
                "seeds": seeds,
                "controls": control or (),
                "every": every,
                "epochs": epochs,
                "lr": lr,
                "batch_size": batch_size,
                "scope": scope,
                "importance": importance,
                "protect": protect or (),
                "early_bird": early_bird,
            }
        }
    ]
    _start(
        "podar ticket", stages, out, model=model, model_arg=model_arg, weights=weights, data=data,
        image_size=image_size, seed=seed, deterministic=deterministic, export=export, threads=threads,
        modules=module, trust=trust,
    )  # fmt: skip


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The stages, in YAML.")],
    out: Out = None,
    module: Modules = None,
    trust: Trust = False,
) -> None:
    """Carry out a recipe."""
    from podar.runs import consent
    from podar.stages import recipes

    read = recipes.read(recipe)
    consent.check(read, str(recipe), trust)
    _run(read, out, trust=trust)


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


def _finetuning(data: str | None, **options: Any) -> list[dict[str, Any]]:
    """The stage that trains, where there are data and epochs.

    **Raises:** `UsageError` where a precision is asked for and nothing is trained.
    """
    if options["precision"] is not None and not (data is not None and options["epochs"]):
        raise UsageError(
            f"--precision {options['precision']} is that of training, and nothing is trained without --data and "
            "--epochs."
        )
    return [{"finetune": options}] if data is not None and options["epochs"] else []


def _start(
    of: str,
    stages: list[dict[str, Any]],
    out: Path | None,
    *,
    model_arg: list[str] | None,
    export: list[str] | None,
    threads: int,
    trust: bool,
    **parts: Any,
) -> None:
    """Make a recipe of what was typed, export and measurement last, and carry it out."""
    from podar.sources.naming import parse_model_args
    from podar.stages import recipes

    if export:
        stages.append({"export": {"formats": export}})
    stages.append({"measure": {"threads": threads}})
    parts["modules"] = parts["modules"] or ()
    recipe = recipes.make({**parts, "model_args": parse_model_args(model_arg or ()), "stages": stages}, of=of)
    _run(recipe, out, trust=trust)


def _run(recipe: Any, out: Path | None, *, trust: bool = False, replace: bool = False) -> None:
    from podar.runs import running

    folder = out or running.free_folder(recipe)
    with working() as progress:
        summary = running.start(recipe, folder, command=common.command, trust=trust, replace=replace, progress=progress)
    end(summary, folder)


def _whole(text: str) -> int | str:
    """A whole number where the text is one."""
    return int(text) if text.lstrip("-").isdecimal() else text


def _ratios(pairs: Any, option: str = "--ratios") -> dict[str, float]:
    """`["layer1*=0.5"]` → `{"layer1*": 0.5}`."""
    found: dict[str, float] = {}
    for pair in pairs:
        pattern, equals, kept = pair.rpartition("=")
        try:
            found[pattern] = float(kept)
        except ValueError:
            equals = ""
        if not equals or not pattern:
            raise UsageError(f"{option} {pair}: write layer=fraction, for example layer1.0.conv1=0.5.")
    return found
