"""The run folder: a recipe is carried out step by step in a hidden folder inside it, and appears whole or not at all.

While a run is under way, everything lies in `OUT/.work`: `state.json` (the recipe with absolute paths, fingerprints of
what it reads, the steps done and what they found), the model after each step that changed it, checkpoints, and
`files/`, which become the run. When the last step is done the files move to OUT, summary.json last.
A run that was broken off, wherever it was, goes on from the step that it was in.
"""

from __future__ import annotations

import contextlib
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError
from podar.files import disk_full
from podar.reports.summary import SUMMARY, parse, read_plain
from podar.runs import consent, finishing, folder, steps
from podar.runs.folder import FILES, STATE, WORK
from podar.runs.recipe import Recipe, make
from podar.runs.steps import Done, merged
from podar.stages import DENSE, Job
from podar.trust import fingerprints, programs

if TYPE_CHECKING:
    import os

    from podar.stages import Progress
    from podar.workshops import Source

_OF_A_RUN = (SUMMARY, "model.safetensors", "plan.json")
DESPITE = "--despite-changes"


def start(
    recipe: Recipe,
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

    **Returns:** The object that summary.json holds.

    **Raises:** `PodarError`: the folder is taken, or any step failed or was interrupted. Finished training is kept for
    `resume`; otherwise the folder is left as it was.
    """
    from podar.runs.paths import absolute

    steps.check_options(recipe)
    out = Path(out)
    name = recipe.name if replace else None
    if not (out / WORK).exists():
        _refuse_taken(out, name)
    missing = [path for path in (out / WORK, *(out / WORK).parents) if not path.exists()]
    try:
        with folder.locked(out, make=True):
            _make_room(out, name)
            asked = {key: getattr(recipe, key) for key in ("model", "data", "weights")}
            state = {"recipe": absolute(recipe).model_dump(mode="json"), "asked": asked, "command": command, "done": []}
            folder.write_run_state(out, state)
            return _carry_on(out, trust=trust, progress=progress, resuming=False)
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
    out = Path(out)
    finished = (out / SUMMARY).is_file()
    if not (out / WORK).is_dir():
        if finished:
            raise PodarError(f"the run in {out} is finished: there is nothing to resume.")
        raise PodarError(f"{out} holds no run that was broken off.")
    with folder.locked(out):
        if folder.is_begun(out):
            consent.check_run(out, trust)
            return _carry_on(out, trust=trust, progress=progress, resuming=True, despite_changes=despite_changes)
        if finished:  # broken off when only the empty folder was left to remove
            folder.clear(out)
            folder.remove(out)
            return read_plain(out)
    raise PodarError(f"{out} holds no run that was broken off: this one had not begun; start it again.")


def summary(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The summary of a finished run.

    **Raises:** `PodarError` where the folder holds none, or it is damaged.
    """
    out = Path(out)
    if not (out / SUMMARY).is_file() and (out / WORK).is_dir():
        raise PodarError(f"the run in {out} is not finished: {folder.resume_command(out)} goes on with it.")
    return read_plain(out)


def free_folder(recipe: Recipe) -> Path:
    """Where a run goes when nobody says: runs/NAME, or runs/NAME-2 … where that is taken."""
    name = recipe.name or Path(recipe.model.rstrip("/").rpartition(":")[2]).stem or "run"
    for number in itertools.count(1):
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
    raise AssertionError  # count() does not end


def _carry_on(
    out: Path, *, trust: bool, progress: Progress | None, resuming: bool, despite_changes: bool = False
) -> dict[str, Any]:
    """Do the steps that are not done yet, then publish. What goes wrong is said in one sentence."""
    state = folder.read_run_state(out)
    at = ["load"]
    asks = trust or consent.names_code(state.get("recipe"))
    again = folder.resume_command(out, *(["--trust"] if asks else []))
    try:
        if "publish" not in state:
            _refuse_changes(out, state, despite_changes, again)
            _do_steps(out, state, trust, progress or _silent, at)
        at[0] = "report"
        folder.publish(out, state["publish"])
        return read_plain(out)
    except KeyboardInterrupt as error:
        raise PodarError(f"interrupted in the stage {at[0]!r}: {again} goes on from there.") from error
    except BaseException as error:
        _give_up_or_keep(out, state, error, resuming, again)
        raise


def _give_up_or_keep(out: Path, state: dict[str, Any], error: BaseException, resuming: bool, again: str) -> None:
    """After a failure, keep what took long to make, and remove what did not.

    **Raises:** `PodarError` in one sentence, where that is known of the failure; else the failure itself passes on.
    """
    long = steps.worth_keeping(out, state)
    kept = resuming or long or "publish" in state
    said, kind = None, PodarError
    if isinstance(error, PodarError):
        said, kind = finishing.as_typed(str(error), state).rstrip("."), type(error)
    elif (reason := disk_full(error, out / WORK)) is not None:
        said = f"cannot write in {out}: {reason}"
    if not kept:
        folder.remove(out, state_first=True)
    if said is None:
        return
    if kept and again not in said:
        said += f"; what was {'trained' if long else 'done'} is kept: {again} goes on from there"
    raise kind(f"{said}.") from error


def _refuse_changes(out: Path, state: dict[str, Any], allowed: bool, again: str) -> None:
    """See that what the run reads is what it began with.

    **Raises:** `PodarError` where something changed, unless that is allowed; it then stands in the state.
    """
    changed = fingerprints.differing(state.get("read", {}), out)
    if not changed:
        return
    told = ", ".join(f"{path} {how}" for path, how in changed.items())
    if not allowed:
        raise PodarError(
            f"{told} since the run in {out} was broken off: put back what was there, or {again} {DESPITE} goes on "
            "with what is there now."
        )
    state["changes"] = [*state.get("changes", []), *(f"{path} {how}" for path, how in changed.items())]
    state["read"] = fingerprints.fingerprints_of(state["read"], out)
    folder.write_run_state(out, state)


def _do_steps(out: Path, state: dict[str, Any], trust: bool, progress: Progress, at: list[str]) -> None:
    """Carry out what is left of a recipe, up to the list of files that are to be published."""
    from podar.runs.paths import files_of

    recipe = make(state["recipe"], of=str(out / WORK / STATE))
    done = [Done(**entry) for entry in state["done"]]
    progress("load", 0, 0, {})
    began = time.perf_counter()
    files = out / WORK / FILES
    files.mkdir(exist_ok=True)
    for program in files.glob("*.pt2") if trust else ():
        programs.remember(program)
    source = open_recipe(recipe, trust)
    if not done:
        state["read"] = fingerprints.fingerprints_of(files_of(recipe, source), out)
        facts = finishing.opening_facts(recipe, source, state)
        done.append(Done("load", time.perf_counter() - began, facts, None))
        _note(out, state, done)
    job = _job(out, state, recipe, source, done, progress)
    behind = {d.name for d in done}
    for step in [step for step in steps.steps(recipe) if step.name not in behind]:
        at[0] = step.name
        done.append(steps.carry_out_step(step, job, out, state["files"], len(done)))
        # What this step ran on; a process that goes on after it may not load the same libraries.
        state["versions"] = {**state.get("versions", {}), **finishing.versions()}
        _note(out, state, done)
        job.checkpoint.unlink(missing_ok=True)
    at[0] = "report"
    progress("report", 0, 0, {})
    folder.drop_unknown(out, state["files"])
    finishing.finish(job, state, done)
    state["publish"] = folder.files_in(out)
    folder.write_run_state(out, state)
    progress("", 0, 0, {})


def _job(out: Path, state: dict[str, Any], recipe: Recipe, source: Source, done: list[Done], progress: Progress) -> Job:
    """What the stages work on: the model as the last finished step left it, and what was found so far."""
    from safetensors.torch import load_file

    from podar.plans.saving import load

    work = out / WORK

    def settle(what: str, value: Any) -> None:
        state["settled"] = {**state.get("settled", {}), what: value}
        folder.write_run_state(out, state)

    saved = next((d.model for d in reversed(done) if d.model), None)
    model = source.build() if saved is None else load(work / saved, source.dense)
    dense = source.model
    if (kept := work / DENSE).is_file():
        dense = source.build()
        dense.load_state_dict(load_file(kept))
    found = parse(merged(d.found for d in done), str(work / STATE))
    settled = state.get("settled", {})
    return Job(recipe, source, model, dense, work / FILES, work, found, progress, settled, settle)


def open_recipe(recipe: Recipe, trust: bool) -> Source:
    """The model and the data that a recipe names, opened."""
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


def _note(out: Path, state: dict[str, Any], done: list[Done]) -> None:
    """Write down what is done, and the files that belong to it."""
    state["done"], state["files"] = [vars(d) for d in done], folder.files_in(out)
    folder.write_run_state(out, state)


def _make_room(out: Path, replaceable: str | None) -> None:
    """See that the folder is free for a run, or has one that may be replaced."""
    if folder.is_begun(out):
        name = folder.read_run_state(out).get("recipe", {}).get("name")
        if replaceable is None or name != replaceable:
            raise PodarError(
                f"{out} holds a run that was broken off: {folder.resume_command(out)} goes on with it, or name "
                "another folder with --out."
            )
        (out / WORK / STATE).unlink()
    folder.clear(out)
    _refuse_taken(out, replaceable)


def _refuse_taken(out: Path, replaceable: str | None) -> None:
    """Say so where a folder already holds a run; a run of the recipe named `replaceable` may be replaced."""
    if out.exists() and not out.is_dir():
        raise PodarError(f"{out} is a file: name a folder for the run with --out.")
    taken = next((name for name in _OF_A_RUN if (out / name).exists()), None)
    if taken is None:
        return
    if replaceable is not None and (out / SUMMARY).is_file():
        made_by = read_plain(out).get("recipe", {}).get("name")
        if made_by == replaceable:
            return
    raise PodarError(f"{out} already holds a run ({taken}): name another folder with --out, or remove it.")


def _remove_empty(made: list[Path]) -> None:
    """Remove the folders that this run made, innermost first, where it left nothing in them."""
    for path in made:
        with contextlib.suppress(OSError):
            path.rmdir()


def _silent(stage: str, done: int, total: int, info: dict[str, float]) -> None:
    """Progress that nobody looks at."""
