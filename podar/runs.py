"""The run folder: a recipe is carried out step by step in a hidden folder inside it, and appears whole or not at all.

While a run is under way, everything lies in `OUT/.work`: `state.json` (the recipe, the steps done and what they found),
the model after each step that changed it, checkpoints, and `files/`, which become the run. When the last step is done
the files move to OUT, summary.json last. A run that was broken off goes on from the step that it was in.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar import recipes
from podar.errors import PodarError
from podar.files import write_atomic

if TYPE_CHECKING:
    from podar.stages import Job, Progress

WORK, SUMMARY, REPORT = ".work", "summary.json", "report.html"
_OF_A_RUN = (SUMMARY, "model.safetensors", "plan.json")
_TOLD = ("torch", "numpy", "torchvision", "timm", "transformers", "ultralytics", "accelerate")
_TOLD += ("onnx", "onnxscript", "onnxruntime", "openvino", "executorch")


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
    - `trust`: passed to `podar.sources.open_source`. It is not written down: resuming asks for it again.
    - `replace`: a run of a recipe of the same name in `out` gives way, once the new one is complete.
    - `progress`: called as `progress(step, done, total, info)`.

    **Returns:** the object that summary.json holds.

    **Raises:** `PodarError`: the folder is taken, or any step failed or was interrupted. Finished training is kept for
    `resume`; otherwise the folder is left as it was.
    """
    from podar import stages

    stages.check(recipe)
    folder = Path(out)
    _refuse_taken(folder, recipe.name if replace else None)
    made = _make(folder / WORK)
    try:
        with _lock(folder):
            _write_state(folder, {"recipe": recipe.model_dump(mode="json"), "command": command, "done": []})
            return _carry_on(folder, trust=trust, progress=progress)
    finally:
        _remove_empty(folder, made)


def resume(out: str | os.PathLike[str], *, trust: bool = False, progress: Progress | None = None) -> dict[str, Any]:
    """Go on with a run that was broken off.

    **Raises:** `PodarError` where there is none, another process is at work on it, or as `start`.
    """
    folder = Path(out)
    if not (folder / WORK / "state.json").is_file():
        if (folder / SUMMARY).is_file():
            raise PodarError(f"the run in {folder} is finished: there is nothing to resume.")
        raise PodarError(f"{folder} holds no run that was broken off.")
    with _lock(folder):
        return _carry_on(folder, trust=trust, progress=progress)


def summary(out: str | os.PathLike[str]) -> dict[str, Any]:
    """The summary of a finished run.

    **Raises:** `PodarError` where the folder holds none, or it is damaged.
    """
    path = Path(out) / SUMMARY
    if not path.is_file():
        unfinished = (Path(out) / WORK).is_dir()
        raise PodarError(
            f"the run in {out} is not finished: podar resume {out} goes on with it."
            if unfinished
            else f"{out} holds no finished run: there is no {SUMMARY} in it."
        )
    return _read_json(path)


def free_folder(recipe: recipes.Recipe) -> Path:
    """Where a run goes when nobody says: runs/NAME, or runs/NAME-2 … where that is taken."""
    name = recipe.name or Path(recipe.model.rstrip("/").rpartition(":")[2]).stem or "run"
    for number in itertools.count(1):
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not folder.exists():
            return folder
    raise AssertionError  # count() does not end


def _carry_on(folder: Path, *, trust: bool, progress: Progress | None) -> dict[str, Any]:
    """Do the steps that are not done yet, then publish. What goes wrong is said in one sentence."""
    state = _read_json(folder / WORK / "state.json")
    at = ["load"]
    try:
        _do_steps(folder, state, trust, progress or _silent, at)
        return _publish(folder)
    except KeyboardInterrupt as error:
        trusting = " --trust" if trust else ""
        raise PodarError(
            f"interrupted in the stage {at[0]!r}: podar resume {folder}{trusting} goes on from there."
        ) from error
    except BaseException as error:
        kept = _worth_keeping(folder)
        if not kept:
            shutil.rmtree(folder / WORK, ignore_errors=True)
        if isinstance(error, PodarError) and kept:
            message = str(error).rstrip(".")
            raise type(error)(
                f"{message}; what was trained is kept: podar resume {folder} goes on from there."
            ) from error
        reason = _disk_full(error)
        if reason and not isinstance(error, PodarError):
            raise PodarError(f"cannot write in {folder}: {reason}; free some space and run again.") from error
        raise


def _disk_full(error: BaseException) -> str | None:
    """The system's words for a full disk, if that is what an error says; compiled writers wrap it in their own."""
    words = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    return next((reason for reason in words if reason in str(error)), None)


def _do_steps(folder: Path, state: dict[str, Any], trust: bool, progress: Progress, at: list[str]) -> None:
    import torch

    from podar import stages
    from podar.saving import load, save

    work, files = folder / WORK, folder / WORK / "files"
    recipe = recipes.make(state["recipe"], of=str(work / "state.json"))
    done = [Done(**entry) for entry in state["done"]]
    pending = [s for s in stages.steps(recipe) if s.name not in {d.name for d in done}]
    if (files / SUMMARY).is_file():
        return  # broken off while publishing
    progress("load", 0, 0, {})
    began = time.perf_counter()
    source = _open(recipe, trust)
    saved = next((d.model for d in reversed(done) if d.model), None)
    model = source.build() if saved is None else load(work / saved, source.dense)
    files.mkdir(exist_ok=True)
    found = merged(d.found for d in done)
    if not done:
        done.append(Done("load", time.perf_counter() - began, _facts(recipe, source), None))
        found = merged([found, done[0].found])
    job = stages.Job(recipe, source, model, files, work, found, progress)
    for step in pending:
        at[0] = step.name
        job.progress = lambda _, count, total, info, name=step.name: progress(name, count, total, info)
        job.progress("", 0, 0, {})
        began = time.perf_counter()
        torch.manual_seed(recipe.seed)
        found = step.do(job)
        job.found = merged([job.found, found])
        kept = None
        if step.changes_model:
            kept = f"model-{len(done):02d}"
            save(job.model, work / kept)
        done.append(Done(step.name, time.perf_counter() - began, found, kept))
        # What this step ran on; a process that goes on after it may not load the same libraries.
        state["versions"] = {**state.get("versions", {}), **versions()}
        _write_state(folder, {**state, "done": [vars(d) for d in done]})
    at[0] = "report"
    progress("report", 0, 0, {})
    save(job.model, files)
    source.save(job.model, files)
    write_atomic(files / "source.json", _json(source.spec))
    _report(files, job, state, done)
    progress("", 0, 0, {})


def _report(files: Path, job: Job, state: dict[str, Any], done: list[Done]) -> None:
    """Write report.html and, last, summary.json among the finished files."""
    from podar.reports import RunRecord, write

    complete = {
        **{half: job.found[half] for half in ("before", "after")},
        "command": state["command"],
        "versions": {**state.get("versions", {}), **versions()},
        **job.found,
        "stages": {d.name: round(d.seconds, 3) for d in done},
        "recipe": state["recipe"],
    }
    write(RunRecord.from_summary(complete, files), files / REPORT)
    write_atomic(files / SUMMARY, _json(complete))


def _publish(folder: Path) -> dict[str, Any]:
    """Move the finished files into the run folder, the summary last: where it is, everything is."""
    files = folder / WORK / "files"
    for path in sorted(files.iterdir(), key=lambda path: path.name == SUMMARY):
        target = folder / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    shutil.rmtree(folder / WORK, ignore_errors=True)
    return _read_json(folder / SUMMARY)


def _open(recipe: recipes.Recipe, trust: bool) -> Any:
    from podar.sources import open_source

    return open_source(
        recipe.model,
        recipe.data,
        weights=recipe.weights,
        model_args=recipe.model_args,
        trust=trust,
        image_size=recipe.image_size,
    )


def _facts(recipe: recipes.Recipe, source: Any) -> dict[str, Any]:
    """What the report says above everything else."""
    from podar.measuring import processor

    facts = {"model": recipe.model}
    title = source.name
    if source.data is not None:
        data = source.data
        title = f"{source.name} on {data.name}"
        facts["data"] = (
            f"{data.name}: {len(data.train):,} training and {len(data.test):,} test images of "
            f"{'×'.join(map(str, data.shape))}, {len(data.classes)} classes"
        )
    elif source.about_data is not None:
        facts["data"] = source.about_data
    targets = [stage.target for stage in recipe.stages if isinstance(stage, recipes.Prune)]
    if targets:
        facts["target"] = ", then ".join(targets)
    for stage in recipe.stages:
        if isinstance(stage, (recipes.Sparsify, recipes.Ticket)):
            facts[stage.title] = str(stage)
    facts["processor"] = str(processor())
    return {"title": title, "facts": facts}


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


def _refuse_taken(folder: Path, replaceable: str | None) -> None:
    """Say so where a folder already holds a run; a run of the recipe named `replaceable` may be replaced."""
    if folder.exists() and not folder.is_dir():
        raise PodarError(f"{folder} is a file: name a folder for the run with --out.")
    if (folder / WORK).exists():
        state = folder / WORK / "state.json"
        name = _read_json(state)["recipe"].get("name") if state.is_file() else None
        if replaceable is None or name != replaceable:
            raise PodarError(
                f"{folder} holds a run that was broken off: podar resume {folder} goes on with it, or name another "
                "folder with --out."
            )
        with _lock(folder):
            shutil.rmtree(folder / WORK)
    taken = next((name for name in _OF_A_RUN if (folder / name).exists()), None)
    if taken is None:
        return
    if replaceable is not None and (folder / SUMMARY).is_file():
        made_by = _read_json(folder / SUMMARY).get("recipe", {}).get("name")
        if made_by == replaceable:
            return
    raise PodarError(f"{folder} already holds a run ({taken}): name another folder with --out, or remove it.")


def _make(work: Path) -> list[Path]:
    """Make a folder and what is missing above it; returns the folders made, innermost first."""
    missing = [p for p in (work, *work.parents) if not p.exists()]
    try:
        work.mkdir(parents=True)
    except OSError as error:
        raise PodarError(f"cannot make the folder {work.parent}: {error.strerror}; name another with --out.") from error
    return missing


def _remove_empty(folder: Path, made: list[Path]) -> None:
    """Remove the folders that this run made, where it left nothing in them."""
    for path in made:
        with contextlib.suppress(OSError):
            path.rmdir()


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Keep a second process out of a run that is under way; the lock ends with the process that holds it."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock
        yield
        return
    descriptor = os.open(folder / WORK, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError as error:
        raise PodarError(
            f"another podar is at work in {folder}: wait for it, or name another folder with --out."
        ) from error
    finally:
        os.close(descriptor)


def _worth_keeping(folder: Path) -> bool:
    """Whether a run that failed has training behind it, which takes long to repeat."""
    if (folder / WORK / "tickets" / "tickets.json").is_file():
        return True
    try:
        done = _read_json(folder / WORK / "state.json")["done"]
    except (PodarError, OSError, KeyError):
        return False
    unfinished = folder / WORK / "files" / "weights" / "last.pt"  # a library's trainer that broke off itself
    return unfinished.is_file() or any(entry["name"].startswith("fine-tune") for entry in done)


def _write_state(folder: Path, state: dict[str, Any]) -> None:
    write_atomic(folder / WORK / "state.json", _json(state))


def _json(data: Any) -> str:
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _read_json(path: Path) -> dict[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PodarError(f"{path} is missing.") from error
    except (OSError, ValueError) as error:
        raise PodarError(f"{path} is damaged ({error}): remove {path.parent} and run again.") from error
    if not isinstance(data, dict):
        raise PodarError(f"{path} is damaged (no JSON object): remove {path.parent} and run again.")
    return data


def _silent(stage: str, done: int, total: int, info: dict[str, float]) -> None:
    """Progress that nobody looks at."""
