"""A sweep: many runs in one folder, carried out by an executor; finished ones stay, whatever becomes of the others.

`OUT/sweep.json` says what is asked for and is written before the first run begins; each point is the run in a folder
beside it. Once all are done or have died, their models are measured in turn, and `summary.json` and `report.html` are
written.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError
from podar.files import lock, write_atomic
from podar.reports.summary import SUMMARY
from podar.runs import consent, finishing, points, steps
from podar.runs.folder import resume_command as resume_command
from podar.runs.folder import to_json
from podar.runs.recipe import Recipe, make
from podar.sweeps.executors import Task, known
from podar.sweeps.points import Point
from podar.sweeps.summary import SWEEP, Asked, Died, Planned, SweepSummary, is_sweep, read_asked, read_summary
from podar.trust import fingerprints

if TYPE_CHECKING:
    from podar.stages import Progress

EXECUTOR = "processes"
_OF_ANOTHER = (SUMMARY, "model.safetensors", "plan.json", ".work")


def start(
    asked: Sequence[Point],
    out: Path | None,
    *,
    command: str,
    runtime: str,
    format: str,
    threads: int = 1,
    seconds: float = 3.0,
    jobs: int = 1,
    executor: str = EXECUTOR,
    trust: bool = False,
    progress: Progress | None = None,
) -> tuple[SweepSummary, Path]:
    """Carry out a sweep, or go on with the same one.

    **Arguments:**

    - `asked`: the points.
    - `out`: its folder; None: runs/NAME-pareto, or the next of that name that is free or holds the same sweep.
    - `runtime`, `format`, `threads`, `seconds`: where and how long the models are measured, and the files for it.
    - `jobs`, `executor`: how many points at a time, and by whom they are carried out.
    - the others as of `podar.runs.running.start`.

    **Returns:** The summary, whose `failed` names the points that died, and the folder.

    **Raises:** `UsageError`: a recipe makes no sense. `PodarError`: model or data cannot be opened, the folder holds
    something else, another process is at work in it, or the sweep was interrupted.
    """
    from podar.runs.paths import absolute

    known(executor)
    recipes = [make(point.recipe, of="podar pareto") for point in asked]
    for recipe in recipes:
        steps.check_options(recipe)
    wanted = Asked(
        command=command,
        title="",
        runtime=runtime,
        format=format,
        threads=threads,
        seconds=seconds,
        points=tuple(
            Planned(
                name=point.name,
                kind=point.kind,
                folder=point.folder,
                recipe=recipe.model_dump(mode="json"),
                absolute=absolute(recipe).model_dump(mode="json"),
            )
            for point, recipe in zip(asked, recipes)
        ),
    )
    folder = out or _free_folder(wanted, recipes[0])
    _refuse_other(folder, wanted)
    if not is_sweep(folder):
        wanted = _opened(wanted, recipes, folder, trust, progress)
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        with _held(folder):
            _refuse_other(folder, wanted)
            if not is_sweep(folder):
                write_atomic(folder / SWEEP, wanted.model_dump_json(indent=1) + "\n")
            return _carry_on(folder, jobs, executor, trust, False, progress), folder
    finally:
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()  # only where nothing was left in it


def resume(
    out: Path,
    *,
    jobs: int = 1,
    executor: str = EXECUTOR,
    trust: bool = False,
    despite_changes: bool = False,
    progress: Progress | None = None,
) -> SweepSummary:
    """Go on with a sweep that was broken off, or of which points died; finished points stay.

    **Raises:** `PodarError` where it names code and `trust` is not given, what it reads has changed, or as `start`.
    """
    known(executor)
    asked = read_asked(out)
    for point in asked.points:
        consent.check_recipe(make(point.absolute, of=str(out / SWEEP)), str(out / SWEEP), trust)
    with _held(out):
        return _carry_on(out, jobs, executor, trust, despite_changes, progress)


def write_report(out: Path, path: Path) -> SweepSummary:
    """Write the page of a sweep again."""
    from podar.sweeps.page import write

    found = read_summary(out)
    write(found, path)
    return found


def _opened(asked: Asked, recipes: Sequence[Recipe], folder: Path, trust: bool, progress: Progress | None) -> Asked:
    """What is known once model and data are open: the page's head, and the files that every run reads.

    A model that is not there is refused here, once, and not by every point.
    """
    from podar.measuring import processor
    from podar.runs.paths import files_of
    from podar.runs.running import open_recipe

    if progress is not None:
        progress("load", 0, 0, {})
    source = open_recipe(recipes[0], trust)
    facts = {"model": recipes[0].model, **({"data": source.about_data} if source.about_data else {})}
    targets = [point.name for point in asked.points if point.kind == "target"]
    facts |= {"targets": ", ".join(targets), "processor": str(processor())}
    read = fingerprints.fingerprints_of([path for recipe in recipes for path in files_of(recipe, source)], folder)
    return asked.model_copy(update={"title": source.title, "facts": facts, "read": read})


def _carry_on(
    out: Path, jobs: int, executor: str, trust: bool, despite_changes: bool, progress: Progress | None
) -> SweepSummary:
    asked, began = read_asked(out), time.perf_counter()
    notes = _changes(out, asked, despite_changes)
    left = [point for point in asked.points if not points.is_finished(out / point.folder)]
    if not left and (out / SUMMARY).is_file() and not notes:
        with contextlib.suppress(PodarError):  # a damaged one is written again
            return read_summary(out)
    died: list[Died] = []
    outcomes = known(executor).run(
        points.carry_out,
        [Task(p.name, _data(out, asked, p, trust, despite_changes)) for p in left],
        jobs,
        _telling(len(left), jobs, progress),
    )
    ended = 0
    try:
        with contextlib.closing(outcomes):
            for outcome in outcomes:
                ended += 1
                died += [] if outcome.reason is None else [Died(name=outcome.name, reason=outcome.reason)]
                if progress is not None and jobs > 1:
                    progress("points", ended, len(left), {})
        if progress is not None:
            progress("measure", 0, 0, {})
        ours = asked.points if trust else left
        return _finished(out, asked, died, [point.name for point in ours], notes, began)
    except KeyboardInterrupt as error:
        whole = sum(points.is_finished(out / point.folder) for point in asked.points)
        raise PodarError(
            f"interrupted with {whole} of {len(asked.points)} points finished: {resume_command(out)} goes on "
            "from there."
        ) from error


def _finished(
    out: Path, asked: Asked, died: Sequence[Died], ours: Sequence[str], notes: Sequence[str], began: float
) -> SweepSummary:
    """Measure what there is, and write summary and page. `ours`: points whose files this command wrote, or trusts."""
    from podar.sweeps.collecting import collect
    from podar.sweeps.page import write

    found = collect(out, asked, died, ours=ours, notes=notes, versions=finishing.versions())
    found = found.model_copy(update={"seconds": round(time.perf_counter() - began, 3)})
    write(found, out / finishing.REPORT)
    write_atomic(out / SUMMARY, to_json(found.model_dump(mode="json")))
    return found


def _data(out: Path, asked: Asked, point: Planned, trust: bool, despite_changes: bool) -> dict[str, Any]:
    """What the work of a point is told. Its recipe is the one that was typed, where paths still mean the same."""
    from podar.runs.paths import absolute

    typed = make(point.recipe, of=str(out / SWEEP))
    same = absolute(typed).model_dump(mode="json") == point.absolute
    return {
        "folder": str(out / point.folder),
        "recipe": point.recipe if same else point.absolute,
        "command": asked.command,
        "trust": trust,
        "despite_changes": despite_changes,
    }


def _telling(count: int, jobs: int, progress: Progress | None) -> Any:
    """Where points run one by one, each tells how far it is; of several only their number is told."""

    def told(task: Task, stage: str, done: int, total: int, info: Mapping[str, float]) -> None:
        if progress is not None and jobs == 1 and stage:
            progress(f"{task.name}: {stage}", done, total, dict(info))

    if progress is not None and jobs > 1 and count:
        progress("points", 0, count, {})
    return told


def _changes(out: Path, asked: Asked, allowed: bool) -> list[str]:
    """What changed among the files that the sweep reads, since it began: points of two models make no curve.

    **Raises:** `PodarError` where something did, unless that is allowed.
    """
    changed = fingerprints.differing(asked.read, out)
    if changed and not allowed:
        told = ", ".join(f"{path} {how}" for path, how in changed.items())
        raise PodarError(
            f"{told} since the sweep in {out} began: put back what was there, name another folder with --out, or "
            f"{resume_command(out, '--despite-changes')} goes on with what is there now."
        )
    return [f"{path} {how} while the sweep was broken off." for path, how in changed.items()]


def _free_folder(asked: Asked, recipe: Recipe) -> Path:
    name = Path(recipe.model.rstrip("/").rpartition(":")[2]).stem or "model"
    for number in itertools.count(1):
        path = Path("runs") / (f"{name}-pareto" if number == 1 else f"{name}-pareto-{number}")
        if not path.exists():
            return path
        if is_sweep(path):
            with contextlib.suppress(PodarError):
                if not _difference(read_asked(path), asked):
                    return path
    raise AssertionError  # count() does not end


def _refuse_other(out: Path, asked: Asked) -> None:
    """See that a folder is free, or holds the same sweep."""
    if out.exists() and not out.is_dir():
        raise PodarError(f"{out} is a file: name a folder for the sweep with --out.")
    if is_sweep(out):
        different = _difference(read_asked(out), asked)
        if different:
            raise PodarError(
                f"{out} holds a sweep with {different}: name another folder with --out, or {resume_command(out)} "
                "goes on with that one."
            )
        return
    taken = next((name for name in (*_OF_ANOTHER, *(p.folder for p in asked.points)) if (out / name).exists()), None)
    if taken is not None:
        raise PodarError(f"{out} already holds something else ({taken}): name another folder with --out.")


def _difference(one: Asked, other: Asked) -> str:
    """In what two sweeps differ, in a few words; empty where they are the same."""
    ours, theirs = ({p.name: p for p in asked.points} for asked in (one, other))
    if ours.keys() != theirs.keys():
        return f"other points ({', '.join(ours)})"
    for name, point in ours.items():
        a, b = point.absolute, theirs[name].absolute
        option = next((key for key in a if a.get(key) != b.get(key)), None)
        if option is not None:
            return f"another {option.replace('_', ' ')} of {name}" if option != "stages" else f"other options of {name}"
    differing = (key for key in ("runtime", "threads", "seconds") if getattr(one, key) != getattr(other, key))
    option = next(differing, None)
    return f"{option}={getattr(one, option)}" if option is not None else ""


@contextlib.contextmanager
def _held(out: Path) -> Iterator[None]:
    """Keep a second process out of a sweep; the hold ends with the process."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = lock(out)
    except BlockingIOError as error:
        raise PodarError(f"another podar is at work in {out}: wait for it, or name another folder.") from error
    except OSError as error:
        raise PodarError(f"cannot make the folder {out}: {error.strerror}; name another with --out.") from error
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
