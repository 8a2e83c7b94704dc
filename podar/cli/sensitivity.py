"""podar sensitivity: how far the outputs move when one group alone is cut."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from podar.cli.app import app
from podar.cli.options import Data, ImageSize, Model, ModelArg, Modules, Seed, Trust, Weights
from podar.cli.output import common, print_json, working

if TYPE_CHECKING:
    from podar.pruning.group_curves import Sensitivity
    from podar.workshops import Source


def _importances(incomplete: str) -> list[str]:
    from podar.criteria import CRITERIA
    from podar.pruning.options import RECONSTRUCTION

    return [name for name in (RECONSTRUCTION, *CRITERIA) if name.startswith(incomplete)]


@app.command()
def sensitivity(
    model: Model,
    data: Data = None,
    fractions: Annotated[
        str, typer.Option(metavar="A,B,…", help="Fractions to which each group is cut.")
    ] = "0.75,0.5,0.25",
    samples: Annotated[int, typer.Option(min=1, metavar="N", help="Samples on which outputs are compared.")] = 256,
    importance: Annotated[
        str, typer.Option(help="What a unit's worth is judged by.", autocompletion=_importances)
    ] = "reconstruction",
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Where to. Default: runs/NAME-sensitivity.")
    ] = None,
    weights: Weights = None,
    model_arg: ModelArg = None,
    module: Modules = None,
    trust: Trust = False,
    image_size: ImageSize = None,
    seed: Seed = 0,
) -> None:
    """Show each group's curve: how far the outputs move when only this group is cut."""
    from podar.cli import console
    from podar.errors import UsageError
    from podar.pruning import group_curves
    from podar.reports.sensitivity import SENSITIVITY, write
    from podar.runs.finishing import REPORT, versions
    from podar.sources.naming import parse_model_args
    from podar.sources.opening import open_source

    if data is None:
        raise UsageError("podar sensitivity runs the model on real inputs: name some with --data.")
    kept = _fractions(fractions)
    folder = _free(out, model)
    with working("load") as progress:
        source = open_source(
            model,
            data,
            weights=weights,
            model_args=parse_model_args(model_arg or ()),
            modules=module or (),
            trust=trust,
            image_size=image_size,
        )
        if progress is not None:
            progress("statistics", 0, 0, {})
        workshop = source.workshop
        found = group_curves.sensitivity(
            source.model,
            workshop.samples(source.model, seed)[0],
            test=_test(source, samples, seed),
            fractions=kept,
            samples=samples,
            importance=importance,
            graph=workshop.trace(source.model, source.inputs()),
            seed=seed,
            progress=progress,
        )
        told = {
            "title": source.title,
            "command": common.command,
            "versions": versions(),
            **found.to_json(),
        }
        write(told, folder)
    if common.json:
        print_json(told)
        return
    for piece in drawn(found):
        console.out().print(piece)
    console.out().print(f"Report: {folder / REPORT}, figures: {folder / SENSITIVITY}", markup=False, soft_wrap=True)


def drawn(found: Sensitivity) -> Iterator[Any]:
    """One row a group: at each fraction the error as cut → with its readers solved anew, and the accuracy."""
    from rich.table import Table
    from rich.text import Text

    from podar.reports import numbers

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("group", overflow="fold")
    table.add_column("units", justify="right")
    for fraction in found.fractions:
        table.add_column(f"{100 * fraction:g} % kept", justify="right")
    for group in found.groups:
        cells = {fraction: Text("–", style="dim") for fraction in found.fractions}
        for cut in group.cuts:
            at = min(found.fractions, key=lambda fraction: abs(fraction - cut.kept))
            solved = "" if cut.compensated is None else f" → {cut.compensated:.3f}"
            own = cut.plain_accuracy if cut.accuracy is None else cut.accuracy
            quality = "" if own is None else f"  {numbers.percent(own)}"
            cells[at] = Text.assemble((f"{cut.plain:.3f}", "dim"), (solved, "bold"), (quality, "green"))
        table.add_row(group.name, f"{group.size} {group.kind}", *cells.values())
    yield table
    dense = "" if found.accuracy is None else f"; accuracy on the same, dense {numbers.percent(found.accuracy)}"
    yield Text(
        "How far the outputs move, as a share of their size, when this group alone is cut → once its readers are "
        f"solved anew, on {found.samples} samples{dense}.",
        style="dim",
    )
    for why in dict.fromkeys(group.left for group in found.groups if group.left):
        names = ", ".join(group.name for group in found.groups if group.left == why)
        yield Text(f"Not solved anew: {names}: {why}.", style="dim")


def _fractions(text: str) -> list[float]:
    """The fractions of `--fractions 0.75,0.5`."""
    from podar.errors import UsageError

    try:
        return [float(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--fractions {text!r}: write what is kept of each group, as 0.75,0.5.") from error


def _test(source: Source, samples: int, seed: int) -> Any:
    """Some of the test data, where podar reads them itself; else outputs are compared on the inputs themselves."""
    from podar.workshops.own import Batches

    return None if source.data is None else Batches(source.data.test, seed, batches=-(-samples // 64))


def _free(out: Path | None, model: str) -> Path:
    """The folder; an earlier table of the same kind in it gives way, anything else does not."""
    from podar.errors import PodarError
    from podar.reports.sensitivity import SENSITIVITY
    from podar.reports.summary import SUMMARY

    if out is not None:
        if out.exists() and not out.is_dir():
            raise PodarError(f"{out} is a file: name a folder with --out.")
        if any((out / name).exists() for name in (SUMMARY, ".work", "sweep.json")):
            raise PodarError(f"{out} already holds a run: name another folder with --out.")
        return out
    name = Path(model.rstrip("/").rpartition(":")[2]).stem or "model"
    numbered = (Path("runs") / f"{name}-sensitivity{'' if n == 1 else f'-{n}'}" for n in itertools.count(1))
    return next(path for path in numbered if not path.exists() or (path / SENSITIVITY).is_file())
