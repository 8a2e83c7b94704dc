"""Options that several commands share, and what their values complete to in a shell."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from podar.data.register import DataSource, complete_data, data_sources
from podar.libraries import Library, libraries
from podar.sources.naming import complete_model


def complete_formats(incomplete: str) -> list[tuple[str, str]]:
    """Names of formats, and what each is for."""
    from podar.formats import FORMATS

    return [(name, kind.help) for name, kind in FORMATS.items() if name.startswith(incomplete)]


def complete_runtimes(incomplete: str) -> list[str]:
    import podar.measuring  # noqa: F401  # the sparse engine registers itself, too
    from podar.runtimes import RUNTIMES

    return [name for name in RUNTIMES if name.startswith(incomplete)]


def complete_executors(incomplete: str) -> list[tuple[str, str]]:
    """Names of executors, and what each is."""
    from podar.sweeps.executors import EXECUTORS

    return [(name, kind.help) for name, kind in EXECUTORS.items() if name.startswith(incomplete)]


def _listed(kinds: Iterable[Library] | Iterable[DataSource]) -> str:
    """What a register holds, one sentence a kind."""
    return " ".join(f"{kind.form}: {kind.help}." for kind in kinds)


Model = Annotated[str, typer.Argument(metavar="MODEL", help=_listed(libraries()), autocompletion=complete_model)]
Data = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help=_listed(data_sources()),
        autocompletion=complete_data,
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
    bool,
    typer.Option(
        "--trust",
        help="Let files run code: pickles, and Python files that they name.",
    ),
]


def _take(files: list[Path] | None) -> list[str] | None:
    """Naming a file here is the consent to run it."""
    if not files:
        return None
    from podar.trust.user_code import take

    return take(files)


Modules = Annotated[
    list[Path] | None,
    typer.Option(
        "--module",
        metavar="FILE.py",
        callback=_take,
        help="A file with layers of your own, which a YAML or a checkpoint names; it is run. May be repeated.",
    ),
]
ImageSize = Annotated[
    int | None,
    typer.Option("--image-size", "--imgsz", min=1, metavar="PIXELS", help="Bring the images to this side."),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads of the measured runtime.")]
Seconds = Annotated[float, typer.Option(min=0.01, metavar="S", help="Time spent measuring each model.")]
Out = Annotated[Path | None, typer.Option(metavar="FOLDER", help="The run's folder. Default: runs/NAME.")]
Deterministic = Annotated[
    bool, typer.Option("--deterministic", help="Time nothing that decides: the same seed gives the same model.")
]
Seed = Annotated[int, typer.Option(help="Of everything that is drawn at random.")]
Jobs = Annotated[int, typer.Option(min=1, metavar="N", help="Points of a sweep at a time.")]
Executor = Annotated[
    str, typer.Option(help="Who carries the points of a sweep out.", autocompletion=complete_executors)
]
