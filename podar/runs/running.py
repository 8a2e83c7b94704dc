"""The run folder: a recipe is carried out step by step in a hidden folder inside it, and appears whole or not at all.

While a run is under way, everything lies in `OUT/.work`: `state.json` (the recipe with absolute paths, fingerprints of
what it reads, the steps done and what they found), the model after each step that changed it, checkpoints, and
`files/`, which become the run. When the last step is done the files move to OUT, summary.json last.
A run that was broken off, wherever it was, goes on from the step that it was in.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import itertools
import platform
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, first_line
from podar.files import disk_full, write_atomic
from podar.runs import consent
from podar.runs import folder as run_folder
from podar.runs.folder import FILES, STATE, SUMMARY, WORK
from podar.stages import recipes
from podar.trust import fingerprints, programs

if TYPE_CHECKING:
    import os

    from podar.stages.work import Job, Progress, Step
    from podar.workshops import Source

REPORT = "report.html"
_OF_A_RUN = (SUMMARY, "model.safetensors", "plan.json")
_TOLD = ("torch", "numpy", "torchvision", "timm", "transformers", "ultralytics", "accelerate")
_TOLD += ("onnx", "onnxscript", "onnxruntime", "openvino", "executorch")
DESPITE = "--despite-changes"


@dataclass(frozen=True)
class Done:
    """A step that a run has behind it: what it found (a part of the summary), and where the model lies after it."""

    name: str
    seconds: float
    found: dict[str, Any]
    model: str | None


def start(
    recipe: recipes.Recipe,
    out: str | os.PathLike[str],
    *,
    command: str,
    trust: bool = False,
    replace: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Carry out a recipe.

    **Arguments:**

    - `out`: the run folder; it must not hold a run yet.
    - `command`: what the user typed; it stands in the summary.
    - `trust`: passed to `podar.sources.opening.open_source`. It is not written down: resuming asks for it again.
    - `replace`: a run of a recipe of the same name in `out` gives way, once the new one is complete.
    - `progress`: called as `progress(step, done, total, info)`.

    **Returns:** the object that summary.json holds.

    **Raises:** `PodarError`: the folder is taken, or any step failed or was interrupted. Finished training is kept for
    `resume`; otherwise the folder is left as it was.
    """
    from podar.runs.paths import absolute
    from podar.stages import work as stages

    stages.check(recipe)
    folder = Path(out)
    name = recipe.name if replace else None
    if not (folder / WORK).exists():
        _refuse_taken(folder, name)
    missing = [path for path in (folder / WORK, *(folder / WORK).parents) if not path.exists()]
    try:
        with run_folder.held(folder, make=True):
            _make_room(folder, name)
            asked = {key: getattr(recipe, key) for key in ("model", "data", "weights")}
            state = {"recipe": absolute(recipe).model_dump(mode="json"), "asked": asked, "command": command, "done": []}
            run_folder.write_state(folder, state)
            return _carry_on(folder, trust=trust, progress=progress, resuming=False)
    finally:
        _remove_empty(missing)


def resume(
    out: str | os.PathLike[str],
    *,
    trust: bool = False,
    despite_changes: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Go on with a run that was broken off. Nothing is ever removed, whatever goes wrong.

    **Arguments:**

    - `trust`: let it run the Python files that its recipe names.
    - `despite_changes`: go on although data, code or weights are no longer what the run began with.

    **Raises:** `PodarError` where there is none, it names code and `trust` is not given, another process is at work on
    it, what it reads has changed, or as `start`.
    """
    folder = Path(out)
    finished = (folder / SUMMARY).is_file()
    if not (folder / WORK).is_dir():
        if finished:
            raise PodarError(f"the run in {folder} is finished: there is nothing to resume.")
        raise PodarError(f"{folder} holds no run that was broken off.")
    with run_folder.held(folder):
        if run_folder.is_begun(folder):
            consent.check_run(folder, trust)
            return _carry_on(folder, trust=trust, progress=progress, resuming=True, despite_changes=despite_changes)
        if finished:  # broken off when only the empty folder was left to remove
            run_folder.clear(folder)
            run_folder.remove(folder)
            return run_folder.read_json(folder / SUMMARY)
    raise PodarError(f"{folder} holds no run that was broken off: this one had not begun; start it again.")


def summary(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The summary of a finished run.

    **Raises:** `PodarError` where the folder holds none, or it is damaged.
    """
    path = Path(out) / SUMMARY
    if not path.is_file():
        unfinished = (Path(out) / WORK).is_dir()
        raise PodarError(
            f"the run in {out} is not finished: {run_folder.command(Path(out))} goes on with it."
            if unfinished
            else f"{out} holds no finished run: there is no {SUMMARY} in it."
        )
    return run_folder.read_json(path)


def free_folder(recipe: recipes.Recipe) -> Path:
    """Where a run goes when nobody says: runs/NAME, or runs/NAME-2 … where that is taken."""
    name = recipe.name or Path(recipe.model.rstrip("/").rpartition(":")[2]).stem or "run"
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return folder
    raise AssertionError  # count() does not end


def _carry_on(
    folder: Path, *, trust: bool, progress: Progress | None, resuming: bool, despite_changes: bool = False
) -> dict[str, Any]:
    """Do the steps that are not done yet, then publish. What goes wrong is said in one sentence."""
    state = run_folder.read_state(folder)
    at = ["load"]
    asks = trust or consent.names_code(state.get("recipe"))
    again = run_folder.command(folder, *(["--trust"] if asks else []))
    try:
        if "publish" not in state:
            _refuse_changes(folder, state, despite_changes, again)
            _do_steps(folder, state, trust, progress or _silent, at)
        at[0] = "report"
        run_folder.publish(folder, state["publish"])
        return run_folder.read_json(folder / SUMMARY)
    except KeyboardInterrupt as error:
        raise PodarError(f"interrupted in the stage {at[0]!r}: {again} goes on from there.") from error
    except BaseException as error:
        trained = run_folder.has_training(folder, state)
        kept = resuming or trained or "publish" in state
        said, kind = None, PodarError
        if isinstance(error, PodarError):
            said, kind = _as_typed(str(error), state).rstrip("."), type(error)
        elif (reason := disk_full(error, folder / WORK)) is not None:
            said = f"cannot write in {folder}: {reason}"
        if not kept:
            run_folder.remove(folder, state_first=True)
        if said is None:
            raise
        if kept and again not in said:
            said += f"; what was {'trained' if trained else 'done'} is kept: {again} goes on from there"
        raise kind(f"{said}.") from error


def _refuse_changes(folder: Path, state: dict[str, Any], allowed: bool, again: str) -> None:
    """See that what the run reads is what it began with.

    **Raises:** `PodarError` where something changed, unless that is allowed; it then stands in the state.
    """
    changed = fingerprints.differing(state.get("read", {}), folder)
    if not changed:
        return
    told = ", ".join(f"{path} {how}" for path, how in changed.items())
    if not allowed:
        raise PodarError(
            f"{told} since the run in {folder} was broken off: put back what was there, or {again} {DESPITE} goes on "
            "with what is there now."
        )
    state["changes"] = [*state.get("changes", []), *(f"{path} {how}" for path, how in changed.items())]
    state["read"] = fingerprints.take(state["read"], folder)
    run_folder.write_state(folder, state)


def _do_steps(folder: Path, state: dict[str, Any], trust: bool, progress: Progress, at: list[str]) -> None:
    """Carry out what is left of a recipe, up to the list of files that are to be published."""
    from podar.plans.saving import load, save
    from podar.runs.paths import files_of
    from podar.stages import work as stages

    work, files = folder / WORK, folder / WORK / FILES
    recipe = recipes.make(state["recipe"], of=str(work / STATE))
    done = [Done(**entry) for entry in state["done"]]
    pending = [s for s in stages.steps(recipe) if s.name not in {d.name for d in done}]
    progress("load", 0, 0, {})
    began = time.perf_counter()
    source = _open(recipe, trust)
    saved = next((d.model for d in reversed(done) if d.model), None)
    model = source.build() if saved is None else load(work / saved, source.dense)
    files.mkdir(exist_ok=True)
    for program in files.glob("*.pt2") if trust else ():
        programs.remember(program)
    if not done:
        state["read"] = fingerprints.take(files_of(recipe, source), folder)
        done.append(Done("load", time.perf_counter() - began, _facts(recipe, source, state), None))
        _note(folder, state, done)

    def settle(what: str, value: Any) -> None:
        state["settled"] = {**state.get("settled", {}), what: value}
        run_folder.write_state(folder, state)

    found = merged(d.found for d in done)
    job = stages.Job(recipe, source, model, files, work, found, progress, state.get("settled", {}), settle)
    for step in pending:
        at[0] = step.name
        done.append(_do(step, job, folder, state["files"], len(done)))
        # What this step ran on; a process that goes on after it may not load the same libraries.
        state["versions"] = {**state.get("versions", {}), **versions()}
        _note(folder, state, done)
        job.checkpoint.unlink(missing_ok=True)
    at[0] = "report"
    progress("report", 0, 0, {})
    run_folder.drop_unknown(folder, state["files"])
    save(job.model, files)
    source.workshop.save(job.model, files)
    write_atomic(files / "source.json", run_folder.to_json(source.spec))
    _report(files, job, state, done)
    state["publish"] = run_folder.files_in(folder)
    run_folder.write_state(folder, state)
    progress("", 0, 0, {})


def _do(step: Step, job: Job, folder: Path, known: list[str], number: int) -> Done:
    """Carry out one step, always from the same beginning; the model that it changed is saved."""
    import torch

    from podar.plans.saving import save

    progress = job.progress
    run_folder.drop_unknown(folder, run_folder.files_in(folder) if step.goes_on else known)
    job.step = step.name
    job.checkpoint = job.scratch / f"{step.name.replace(' ', '-')}{run_folder.CHECKPOINT}"
    job.progress = lambda _, count, total, info: progress(step.name, count, total, info)
    job.progress("", 0, 0, {})
    began = time.perf_counter()
    with _repeatable(job.recipe, step):
        torch.manual_seed(job.recipe.seed)
        found = step.do(job)
    job.progress = progress
    job.found = merged([job.found, found])
    kept = None
    if step.changes_model:
        kept = f"model-{number:02d}"
        save(job.model, job.scratch / kept)
    return Done(step.name, time.perf_counter() - began, found, kept)


@contextlib.contextmanager
def _repeatable(recipe: recipes.Recipe, step: Step) -> Iterator[None]:
    """Where a recipe is to be deterministic, let torch refuse operators that are not, while the model is changed."""
    import torch

    if not (recipe.deterministic and step.changes_model):
        yield
        return
    before, warned = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(True)
    try:
        yield
    except RuntimeError as error:
        if "deterministic" not in str(error):
            raise
        raise PodarError(f"this model cannot be trained deterministically here ({first_line(error)}).") from error
    finally:
        torch.use_deterministic_algorithms(before, warn_only=warned)


def _note(folder: Path, state: dict[str, Any], done: list[Done]) -> None:
    """Write down what is done, and the files that belong to it."""
    state["done"], state["files"] = [vars(d) for d in done], run_folder.files_in(folder)
    run_folder.write_state(folder, state)


def _report(files: Path, job: Job, state: dict[str, Any], done: list[Done]) -> None:
    """Write report.html and, last, summary.json among the finished files."""
    from podar.reports import RunRecord, write

    complete = {
        **{half: job.found[half] for half in ("before", "after")},
        "command": state["command"],
        "versions": {**state.get("versions", {}), **versions()},
        **job.found,
        "stages": {d.name: round(d.seconds, 3) for d in done},
        "recipe": {**state["recipe"], **state.get("asked", {})},
    }
    if state.get("changes"):
        complete["notes"] = job.noted(*(f"{change} while the run was broken off" for change in state["changes"]))
    write(RunRecord.from_summary(complete, files), files / REPORT)
    write_atomic(files / SUMMARY, run_folder.to_json(complete))


def _open(recipe: recipes.Recipe, trust: bool) -> Source:
    from podar.sources.opening import open_source

    return open_source(
        recipe.model,
        recipe.data,
        weights=recipe.weights,
        model_args=recipe.model_args,
        modules=recipe.modules,
        trust=trust,
        image_size=recipe.image_size,
    )


def _as_typed(text: str, state: dict[str, Any]) -> str:
    """A text with the model, data and weights as the user named them: their absolute paths are for another folder."""
    for key, asked in state.get("asked", {}).items():
        absolute = state["recipe"].get(key)
        if asked and absolute and asked != absolute:
            text = text.replace(absolute, asked)
    return text


def _facts(recipe: recipes.Recipe, source: Source, state: dict[str, Any]) -> dict[str, Any]:
    """What the report says above everything else."""
    from podar.measuring import processor
    from podar.stages.work import sentence

    facts = {"model": recipe.model}
    if source.about_data:
        facts["data"] = source.about_data
    targets = [str(stage) for stage in recipe.stages if isinstance(stage, recipes.Prune)]
    if targets:
        facts["target"] = ", then ".join(targets)
    for stage in recipe.stages:
        if isinstance(stage, (recipes.Sparsify, recipes.Ticket)):
            facts[stage.title] = str(stage)
    facts["processor"] = str(processor())
    facts = {name: _as_typed(fact, state) for name, fact in facts.items()}
    return {"title": source.title, "facts": facts, "notes": [sentence(_as_typed(note, state)) for note in source.notes]}


def merged(parts: Iterator[dict[str, Any]] | list[dict[str, Any]]) -> dict[str, Any]:
    """One mapping from several: later values replace earlier ones, mappings within are merged in the same way.

    ```python
    >>> merged([{"after": {"macs": 1}}, {"after": {"params": 2}}])
    {'after': {'macs': 1, 'params': 2}}

    ```
    """
    whole: dict[str, Any] = {}
    for part in parts:
        for key, value in part.items():
            both = isinstance(value, Mapping) and isinstance(whole.get(key), Mapping)
            whole[key] = merged([whole[key], dict(value)]) if both else value
    return whole


def versions() -> dict[str, str]:
    """Versions of Python, podar and those of its libraries that this process has loaded."""
    found = {"podar": importlib.metadata.version("podar"), "python": platform.python_version()}
    for name in _TOLD:
        if name in sys.modules:
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):
                found[name] = importlib.metadata.version(name)
    return found


def _make_room(folder: Path, replaceable: str | None) -> None:
    """See that the held folder is free for a run, or has one that may be replaced."""
    if run_folder.is_begun(folder):
        name = run_folder.read_state(folder).get("recipe", {}).get("name")
        if replaceable is None or name != replaceable:
            raise PodarError(
                f"{folder} holds a run that was broken off: {run_folder.command(folder)} goes on with it, or name "
                "another folder with --out."
            )
        (folder / WORK / STATE).unlink()
    run_folder.clear(folder)
    _refuse_taken(folder, replaceable)


def _refuse_taken(folder: Path, replaceable: str | None) -> None:
    """Say so where a folder already holds a run; a run of the recipe named `replaceable` may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise PodarError(f"{folder} is a file: name a folder for the run with --out.")
    taken = next((name for name in _OF_A_RUN if (folder / name).exists()), None)
    if taken is None:
        return
    if replaceable is not None and (folder / SUMMARY).is_file():
        made_by = run_folder.read_json(folder / SUMMARY).get("recipe", {}).get("name")
        if made_by == replaceable:
            return
    raise PodarError(f"{folder} already holds a run ({taken}): name another folder with --out, or remove it.")


def _remove_empty(made: list[Path]) -> None:
    """Remove the folders that this run made, innermost first, where it left nothing in them."""
    for path in made:
        with contextlib.suppress(OSError):
            path.rmdir()


def _silent(stage: str, done: int, total: int, info: dict[str, float]) -> None:
    """Progress that nobody looks at."""
