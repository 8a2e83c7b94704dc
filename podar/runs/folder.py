"""The hidden folder of a run under way: its lock, its state, and how it becomes the run or goes away.

`OUT/.work` holds `state.json`, models, checkpoints, and `files/`, which become the run. A `.work` without a state is no
run: the state is the first thing written, and the last removed once everything is in its place.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints

from podar.errors import PodarError
from podar.files import lock, write_atomic
from podar.reports.summary import SUMMARY
from podar.stages import stages
from podar.trust.models import validated
from podar.trust.plain import Unreadable, read_json

WORK, STATE, FILES = ".work", "state.json", "files"
_OURS = re.compile(r"files|model-\d+|dense\.safetensors|state\.json|.*\.(checkpoint|check|pt|part)")
_ATTEMPTS = 20


# A file under the run's folder: no name that is hidden, absolute or leads out of it.
_PART = r"[^./\\\x00][^/\\\x00]*"
_Inside = Annotated[str, StringConstraints(pattern=rf"^{_PART}(/{_PART})*$", max_length=4096)]


class _Done(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str
    seconds: float
    found: dict[str, Any]
    model: Annotated[str, StringConstraints(pattern=r"^model-\d{2,6}$")] | None


class _State(BaseModel):
    """What must hold of a state before anything is done by it."""

    model_config = ConfigDict(extra="allow")
    recipe: dict[str, Any]
    command: str
    done: list[_Done]
    files: list[_Inside] = []
    publish: list[_Inside] = []


def work_of(folder: Path) -> Path:
    """The hidden folder."""
    return folder / WORK


def is_begun(folder: Path) -> bool:
    """Whether a folder holds a run that is under way or was broken off."""
    return (folder / WORK / STATE).is_file()


@contextlib.contextmanager
def locked(folder: Path, make: bool = False) -> Iterator[None]:
    """Keep a second process out of a run; the hold ends with the process.

    **Arguments:** `make`: make the folders that are missing.

    **Raises:** `PodarError` where another process is at work, or the folder cannot be made.
    """
    descriptor = _locked(folder, make)
    try:
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(folder: Path, make: bool) -> int | None:
    busy = f"another podar is at work in {folder}: wait for it, or name another folder with --out."
    for _ in range(_ATTEMPTS):
        try:
            if make:
                (folder / WORK).mkdir(parents=True, exist_ok=True)
            return lock(folder / WORK)
        except BlockingIOError as error:
            raise PodarError(busy) from error
        except FileNotFoundError as error:
            if not make:
                raise PodarError(f"{folder} holds no run that was broken off.") from error
            # else another process has just removed what it had made there
        except OSError as error:
            raise PodarError(f"cannot make the folder {folder}: {error.strerror}; name another with --out.") from error
    raise PodarError(busy)


def write_run_state(folder: Path, state: dict[str, Any]) -> None:
    """Write down what a run has behind it, in one step."""
    write_atomic(folder / WORK / STATE, to_json(state))


def read_run_state(folder: Path) -> dict[str, Any]:
    """What `write_state` wrote.

    **Raises:** `PodarError` where it is missing or damaged.
    """
    path = folder / WORK / STATE
    try:
        return {"files": [], **validated(_State, read_json(path, nan=True)).model_dump(exclude_unset=True)}
    except FileNotFoundError as error:
        raise PodarError(f"{path} is missing.") from error
    except Unreadable as error:
        raise PodarError(f"{path} is damaged ({error}): remove {path.parent} and run again.") from error


def files_in(folder: Path) -> list[str]:
    """The finished files that a run has so far, by their paths from `files/`; what is hidden is not finished."""
    files = folder / WORK / FILES
    names = (path.relative_to(files) for path in files.rglob("*") if path.is_file() or path.is_symlink())
    return sorted(name.as_posix() for name in names if not any(part.startswith(".") for part in name.parts))


def drop_unknown(folder: Path, known: Sequence[str]) -> None:
    """Remove from `files/` what an attempt that was killed left there."""
    files = folder / WORK / FILES
    for path in sorted(files.rglob("*"), reverse=True):  # what lies in a folder before the folder
        if path.is_dir() and not path.is_symlink():
            with contextlib.suppress(OSError):
                path.rmdir()
        elif path.relative_to(files).as_posix() not in known:
            path.unlink()


def publish(folder: Path, names: Sequence[str]) -> None:
    """Move finished files into the run's folder, the summary last: where it is, everything is. Then `.work` goes.

    Called again after a kill, it goes on with what is left to do.

    **Raises:** `PodarError` where a file is lost, or cannot take its place.
    """
    files = folder / WORK / FILES
    last = [name for name in names if name == SUMMARY]
    if (files / SUMMARY).is_file():
        (folder / SUMMARY).unlink(missing_ok=True)  # of the run that this one replaces: it is whole no longer
    for name in [*(name for name in names if name != SUMMARY), *last]:
        source, target = files / name, folder / name
        if source.is_file():
            source.chmod(files.stat().st_mode & 0o666)  # as open gives it, whichever library wrote the file
            _move(source, target)
        elif not target.is_file():
            raise PodarError(f"{source} is missing: remove {folder / WORK} and run again.")
    remove(folder)


def remove(folder: Path, *, state_first: bool = False) -> None:
    """Remove `.work`. The state goes last where the run is whole, and first where it is given up."""
    work = folder / WORK
    if state_first:
        (work / STATE).unlink(missing_ok=True)
    if not work.is_dir():
        return
    for path in sorted(work.iterdir(), key=lambda path: path.name == STATE):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        work.rmdir()


def clear(folder: Path) -> None:
    """Empty a `.work` without a state, which a process left that was killed before it had written one.

    **Raises:** `PodarError` where something lies in it that is not podar's.
    """
    work = folder / WORK
    kept = {pattern.partition("/")[0] for stage in stages().values() for pattern in stage.keeps}
    names = [path.name for path in work.iterdir()]
    foreign = next((name for name in names if name not in kept and not _OURS.fullmatch(name)), None)
    if foreign is not None:
        raise PodarError(f"{work} holds {foreign}, which is not podar's: name another folder with --out.")
    for path in work.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def resume_command(folder: Path, *options: str) -> str:
    """What to type to go on with a run."""
    return shlex.join(["podar", "resume", str(folder), *options])


def to_json(data: Any) -> str:
    """As run folders hold it."""
    return json.dumps(data, indent=1, ensure_ascii=False) + "\n"


def _move(source: Path, target: Path) -> None:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        os.replace(source, target)
    except OSError as error:
        raise PodarError(f"cannot write {target}: {error.strerror}.") from error
