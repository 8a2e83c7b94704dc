"""The command `podar`: parses, calls, prints. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from podar.errors import PodarError, UsageError

_EVERYWHERE = ("--json", "--quiet", "--debug")


@dataclass
class _Settings:
    """The options that every command knows, and the command line as typed."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    command: str = "podar"


_settings = _Settings()


class _Podar(TyperGroup):
    """Takes --json, --quiet and --debug before or after the command's name, and says errors in one sentence."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        _settings.command = shlex.join(["podar", *args])
        end = args.index("--") if "--" in args else len(args)
        hoisted = [arg for arg in args[:end] if arg in _EVERYWHERE]
        rest = [arg for arg in args[:end] if arg not in _EVERYWHERE] + args[end:]
        return super().parse_args(ctx, hoisted + rest)

    def main(self, *args: Any, standalone_mode: bool = True, **extra: Any) -> Any:
        try:
            with warnings.catch_warnings():
                if not sys.warnoptions:
                    warnings.simplefilter("ignore")  # libraries warn their programmers; podar's users are others
                code = super().main(*args, standalone_mode=False, **extra)
        except BaseException as error:
            code = _told(error)
        if standalone_mode:
            sys.exit(code if isinstance(code, int) else 0)
        return code


def _told(error: BaseException) -> int:
    """Say an error in one sentence; returns the exit code."""
    from podar import console

    if isinstance(error, SystemExit) and error.code == 130:  # Typer's answer to Ctrl-C, without a word
        error = KeyboardInterrupt()
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    if _settings.debug:
        traceback.print_exception(error)
    if hasattr(error, "format_message"):  # Typer's own: an unknown option, a missing argument
        console.fail(f"{error.format_message().rstrip('.')}; podar --help lists what there is")  # pyright: ignore[reportAttributeAccessIssue]
        return 2
    if isinstance(error, PodarError):
        console.fail(str(error))
        return error.exit_code
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        console.fail("interrupted; no file was left half-written")
        return 1
    where = "" if _settings.debug else "; run again with --debug for the details, and please report it"
    reason = (str(error).splitlines() or [""])[0]
    console.fail(f"unexpected {type(error).__name__}{f' ({reason})' if reason else ''}{where}")
    return 1


app = typer.Typer(
    cls=_Podar,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="--json, --quiet and --debug may stand anywhere on the line.",
)


def _version(asked: bool) -> None:
    if asked:
        import podar

        typer.echo(f"podar {podar.__version__}")
        raise typer.Exit()


@app.callback()
def _everywhere(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show where an error comes from.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print podar's version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Make a trained PyTorch network smaller and faster, keep its accuracy, and prove it with measurements."""
    _settings.json, _settings.quiet, _settings.debug = as_json, quiet, debug


def _models(incomplete: str) -> list[str]:
    from podar.sources import complete_model

    return complete_model(incomplete)


def _data(incomplete: str) -> list[str]:
    from podar.data import complete

    return complete(incomplete)


def _importances(incomplete: str) -> list[str]:
    from podar.criteria import CRITERIA

    return [name for name in CRITERIA if name.startswith(incomplete)]


def _scopes(incomplete: str) -> list[str]:
    from podar.allocate import SCOPES

    return [name for name in SCOPES if name.startswith(incomplete)]


def _formats(incomplete: str) -> list[str]:
    from podar.exporters import FORMATS

    return [name for name in FORMATS if name.startswith(incomplete)]


def _runtimes(incomplete: str) -> list[str]:
    from podar.measuring.runtimes import RUNTIMES

    return [name for name in RUNTIMES if name.startswith(incomplete)]


MODEL_HELP = (
    "timm:NAME, torchvision:NAME, transformers:FOLDER, yolo26n.yaml, yolo26n.pt, FILE.py:FUNCTION, or a run's folder."
)

Model = Annotated[str, typer.Argument(metavar="MODEL", help=MODEL_HELP, autocompletion=_models)]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="A name (fashion-mnist), an image folder, an .npz, a Hugging Face folder.",
        autocompletion=_data,
    ),
]
Weights = Annotated[
    str | None, typer.Option(metavar="FILE", help="The model's checkpoint: safetensors, or a state dict.")
]
ModelArg = Annotated[
    list[str] | None,
    typer.Option("--model-arg", metavar="NAME=VALUE", help="An argument of the model's constructor; may be repeated."),
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Load pickles that can run programs. Only for files whose origin you know.")
]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", "--imgsz", min=1, metavar="PIXELS", help="Bring the images to this side."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the measured runtime.")]
Seconds = Annotated[float, typer.Option(min=0.01, metavar="S", help="Time spent measuring each model.")]


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
    from podar import recipes

    _run(recipes.demo(data), out, replace=True)


@app.command()
def inspect(
    model: Model,
    weights: Weights = None,
    model_arg: ModelArg = None,
    trust: Trust = False,
    explain: Annotated[
        str | None, typer.Option(metavar="NAME", help="Everything about one module or parameter.")
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(metavar="FILE.svg", help="Write a picture of the groups over the network.")
    ] = None,
) -> None:
    """Show what can be pruned, what it costs, and what is frozen and why."""
    from podar import console
    from podar.files import write_atomic
    from podar.inspection import anatomy
    from podar.sources import open_source, parse_model_args

    with console.progress(_settings.quiet or _settings.json) as progress:
        if progress:
            progress("trace", 0, 0, {})
        source = open_source(model, weights=weights, model_args=parse_model_args(model_arg or ()), trust=trust)
        found, graph = anatomy(source, model)
    if picture is not None:
        from podar.picture import draw

        write_atomic(picture, draw(found))
    if explain is not None:
        text = graph.explain(explain)
        _print({"explanation": text}) if _settings.json else console.out().print(text, markup=False)
        return
    if _settings.json:
        _print(found)
        return
    for piece in console.anatomy(found):
        console.out().print(piece)


@app.command()
def prune(
    model: Model,
    target: Annotated[
        str,
        typer.Option(
            metavar="KIND=AMOUNT", help="What must remain: macs=0.5, channels=0.5, params=2M, bytes=300k, memory=0.6."
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[KEY=VALUE]…", help="YOLO: any further argument of Ultralytics' trainer.", show_default=False
        ),
    ] = None,
    data: Data = None,
    epochs: Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning after the cut; 0 trains nothing.")] = 5,
    export: Annotated[
        list[str] | None,
        typer.Option(metavar="FORMAT", help="Write this format too; may be repeated.", autocompletion=_formats),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The run's folder. Default: runs/NAME.")] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    trust: Trust = False,
    importance: Annotated[
        str | None,
        typer.Option(
            help="What a channel's worth is judged by. Default: magnitude; YOLO with --data: taylor.",
            autocompletion=_importances,
        ),
    ] = None,
    scope: Annotated[
        str, typer.Option(help="Who competes: global, local or isomorphic.", autocompletion=_scopes)
    ] = "global",
    ratios: Annotated[
        list[str] | None,
        typer.Option(metavar="LAYER=KEPT", help="A fraction to keep of one layer (patterns work); may be repeated."),
    ] = None,
    protect: Annotated[
        list[str] | None, typer.Option(metavar="PATTERN", help="A layer that keeps every channel; may be repeated.")
    ] = None,
    multiple_of: Annotated[
        int | None,
        typer.Option(min=1, help="Round widths to multiples of this. Default: what the exported file's runtime likes."),
    ] = None,
    depth: Annotated[
        bool, typer.Option("--depth", help="Whole residual blocks may go too, each weighed like one more unit.")
    ] = False,
    lr: Annotated[float | None, typer.Option(help="Peak learning rate. Default: chosen for the model.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Images a step of fine-tuning. Default: 128; YOLO: Ultralytics' own.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Stop fine-tuning after this time.")] = None,
    no_distill: Annotated[bool, typer.Option("--no-distill", help="Do not learn from the unpruned model.")] = False,
    image_size: ImageSize = None,
    threads: Threads = 1,
    seed: Annotated[int, typer.Option(help="Of everything that is drawn at random.")] = 0,
) -> None:
    """Prune a model, recover its accuracy, export it, measure it before and after, and report."""
    from podar import recipes
    from podar.sources import parse_model_args

    stages: list[dict[str, Any]] = [
        {
            "prune": {
                "target": target,
                "importance": importance,
                "scope": scope,
                "ratios": _ratios(ratios or ()),
                "protect": protect or (),
                "multiple_of": multiple_of,
                "depth": depth,
            }
        }
    ]
    if settings and not (epochs and data is not None):
        raise UsageError(
            f"{settings[0]} is an argument of training, and nothing is trained without --data and --epochs."
        )
    if epochs and data is not None:
        tuning = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seconds": seconds, "distill": not no_distill}
        tuning["settings"] = parse_model_args(settings or (), option="")
        stages.append({"finetune": tuning})
    if export:
        stages.append({"export": {"formats": export}})
    stages.append({"measure": {"threads": threads}})
    recipe = recipes.make(
        {
            "model": model,
            "model_args": parse_model_args(model_arg or ()),
            "weights": weights,
            "data": data,
            "image_size": image_size,
            "seed": seed,
            "stages": stages,
        },
        of="podar prune",
    )
    _run(recipe, out, trust=trust)


Epochs = Annotated[int, typer.Option(min=0, help="Epochs of fine-tuning afterwards; 0 trains nothing.")]
Exports = Annotated[
    list[str] | None,
    typer.Option(metavar="FORMAT", help="Write this format too; may be repeated.", autocompletion=_formats),
]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="The run's folder. Default: runs/NAME.")]
Protect = Annotated[
    list[str] | None, typer.Option(metavar="PATTERN", help="A layer that stays dense; may be repeated.")
]
Rate = Annotated[float | None, typer.Option(help="Peak learning rate. Default: chosen for the model.")]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn at random.")]
WeightImportance = Annotated[str, typer.Option(help="What a weight's worth is judged by.", autocompletion=_importances)]
WeightScope = Annotated[str, typer.Option(help="Who competes: global, local, uniform, er, erk or sensitivity.")]


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
    trust: Trust = False,
    lr: Rate = None,
    batch_size: Annotated[int | None, typer.Option(min=1, help="Images a step of fine-tuning. Default: 128.")] = None,
    seconds: Annotated[float | None, typer.Option(metavar="S", help="Stop fine-tuning after this time.")] = None,
    no_distill: Annotated[bool, typer.Option("--no-distill", help="Do not learn from the dense model.")] = False,
    image_size: ImageSize = None,
    threads: Threads = 1,
    seed: Seed = 0,
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
    if epochs and data is not None:
        tuning = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "seconds": seconds, "distill": not no_distill}
        stages.append({"finetune": tuning})
    if export:
        stages.append({"export": {"formats": export}})
    stages.append({"measure": {"threads": threads}})
    _start(
        "podar sparsify", stages, out, model=model, model_arg=model_arg, weights=weights, data=data,
        image_size=image_size, seed=seed, trust=trust,
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
    trust: Trust = False,
    lr: Rate = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Images a step of training.")] = 128,
    image_size: ImageSize = None,
    threads: Threads = 1,
    seed: Seed = 0,
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
    if export:
        stages.append({"export": {"formats": export}})
    stages.append({"measure": {"threads": threads}})
    _start(
        "podar ticket", stages, out, model=model, model_arg=model_arg, weights=weights, data=data,
        image_size=image_size, seed=seed, trust=trust,
    )  # fmt: skip


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(metavar="RECIPE.yaml", help="The stages, in YAML.")],
    out: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The run's folder. Default: runs/NAME.")] = None,
    trust: Trust = False,
) -> None:
    """Carry out a recipe."""
    from podar import recipes

    _run(recipes.read(recipe), out, trust=trust)


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a run that was broken off.")],
    trust: Trust = False,
) -> None:
    """Go on with a run that was broken off."""
    from podar import console, runs

    with console.progress(_settings.quiet or _settings.json) as progress:
        summary = runs.resume(folder, trust=trust, progress=progress)
    _end(summary, folder)


@app.command()
def export(
    model: Model,
    format: Annotated[str, typer.Option(help="The file's format.", autocompletion=_formats)] = "onnx",
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: the model's name.")] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    data: Data = None,
    trust: Trust = False,
    image_size: ImageSize = None,
) -> None:
    """Write a deployable file and check it against the model; with --data on real inputs."""
    from podar import console
    from podar.inspection import export_file
    from podar.sources import open_source, parse_model_args

    with console.progress(_settings.quiet or _settings.json) as progress:
        if progress:
            progress("export", 0, 0, {})
        source = open_source(
            model,
            data,
            weights=weights,
            model_args=parse_model_args(model_arg or ()),
            trust=trust,
            image_size=image_size,
        )
        exported = export_file(source, format, out)
    if _settings.json:
        _print(exported)
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
            autocompletion=_models,
        ),
    ],
    weights: Weights = None,
    model_arg: ModelArg = None,
    threads: Threads = 1,
    seconds: Seconds = 3.0,
    batch_size: Annotated[int, typer.Option(min=1, help="Inputs at a time.")] = 1,
    runtime: Annotated[
        list[str] | None, typer.Option(help="Only this runtime; may be repeated.", autocompletion=_runtimes)
    ] = None,
    trust: Trust = False,
) -> None:
    """Measure latency and memory on every runtime at hand; models and files are run in turn."""
    from podar import console
    from podar.inspection import bench_models
    from podar.sources import parse_model_args

    with console.progress(_settings.quiet or _settings.json) as progress:
        if progress:
            progress("measure", 0, 0, {})
        found = bench_models(
            models,
            weights=weights,
            model_args=parse_model_args(model_arg or ()),
            threads=threads,
            seconds=seconds,
            batch_size=batch_size,
            runtimes=runtime or (),
            trust=trust,
        )
    if _settings.json:
        _print(found)
        return
    for piece in console.measured(found):
        console.out().print(piece)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="The folder of a finished run.")],
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Default: report.html in the run's folder.")] = None,
) -> None:
    """Write a run's report again, and show its table."""
    from podar import reports, runs

    summary = runs.summary(folder)
    path = out or folder / runs.REPORT
    reports.write(reports.RunRecord.from_folder(folder), path)
    _end(summary, folder, path)


def _start(
    of: str, stages: list[dict[str, Any]], out: Path | None, *, model_arg: list[str] | None, trust: bool, **parts: Any
) -> None:
    """Make a recipe of what was typed, and carry it out."""
    from podar import recipes
    from podar.sources import parse_model_args

    recipe = recipes.make({**parts, "model_args": parse_model_args(model_arg or ()), "stages": stages}, of=of)
    _run(recipe, out, trust=trust)


def _run(recipe: Any, out: Path | None, *, trust: bool = False, replace: bool = False) -> None:
    from podar import console, runs

    folder = out or runs.free_folder(recipe)
    with console.progress(_settings.quiet or _settings.json) as progress:
        summary = runs.start(recipe, folder, command=_settings.command, trust=trust, replace=replace, progress=progress)
    _end(summary, folder)


def _end(summary: dict[str, Any], folder: Path, report: Path | None = None) -> None:
    """The end of a run: the table and the report's path, or the summary as JSON."""
    from podar import console, runs

    if _settings.json:
        _print(summary)
        return
    screen = console.out()
    for piece in console.headline(summary):
        screen.print(piece)
    screen.print(f"Report: {report or folder / runs.REPORT}", markup=False, soft_wrap=True)


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


def _print(data: Any) -> None:
    sys.stdout.write(json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def main() -> None:
    """The entry point of the command `podar`."""
    app(prog_name="podar")


if __name__ == "__main__":
    main()
