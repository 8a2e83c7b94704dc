"""Finds checkpoints and architectures that are named: on the disk, else where Ultralytics downloads them from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from podar.errors import PodarError, nearest


def find_checkpoint(model: str) -> Path:
    """The file of a checkpoint; one that Ultralytics publishes is downloaded where there is a network.

    **Raises:** `PodarError` where there is none, with the nearest name.
    """
    path = Path(model).expanduser()
    if path.is_file():
        return path.resolve()
    from ultralytics.utils import downloads, is_online

    if model in downloads.GITHUB_ASSETS_NAMES and is_online():
        found = Path(asked(downloads.attempt_download_asset, model))
        if found.is_file():
            return found.resolve()
    refuse_missing(model, f" and it could not be downloaded; {path.stem}.yaml is its architecture with random weights")
    raise AssertionError  # refused above


def refuse_missing(model: str, of_a_known_one: str | None = None) -> None:
    """Say that a checkpoint is missing, with the nearest name; one that can be downloaded is left to Ultralytics.

    **Arguments:** `of_a_known_one`: what to say of a name that could be downloaded; None: nothing, no error.
    """
    from ultralytics.utils import downloads

    path = Path(model).expanduser()
    if model in downloads.GITHUB_ASSETS_NAMES:
        if of_a_known_one is None:
            return
        raise PodarError(f"there is no file {model}{of_a_known_one}.")
    local = [p.name for p in path.parent.glob("*.pt")] if path.parent.is_dir() else []
    near = nearest(path.name, [*local, *(downloads.GITHUB_ASSETS_NAMES if path.name == model else ())])
    raise PodarError(f"there is no file {model}" + (f"; did you mean {path.with_name(near)}?" if near else "."))


def asked(function: Any, *args: Any) -> Any:
    """What a function of Ultralytics returns. **Raises:** `PodarError` with the words of its error."""
    try:
        return function(*args)
    except Exception as error:
        raise PodarError(f"Ultralytics cannot provide {args[0]}: {' '.join(str(error).split())[:300]}") from error
