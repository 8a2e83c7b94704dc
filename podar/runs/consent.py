"""Consent to run code: what stands on the command line is one; a recipe or a run that names code asks for --trust."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from podar.errors import PodarError
from podar.libraries import find_library
from podar.runs.folder import STATE, WORK, is_begun, read_run_state
from podar.runs.recipe import Recipe, make
from podar.sources.naming import take_modules


def check_recipe(recipe: Recipe, of: str, trust: bool) -> None:
    """Refuse a recipe that comes from a file and names code of the user's own, which opening it would run.

    **Arguments:** `of`: the file, for messages.

    **Raises:** `PodarError` that names the code, and how to consent.
    """
    library = find_library(recipe.model)
    if library is not None and library.runs_code and not trust:
        raise PodarError(f"{of} names {recipe.model}, and opening that runs a file: add --trust if that is right.")
    take_modules(recipe.modules, of, trust)


def names_code(recipe: Any) -> bool:
    """Whether a recipe, as plain data, names code of the user's own."""
    if not isinstance(recipe, dict) or not isinstance(recipe.get("model"), str):
        return False
    library = find_library(recipe["model"])
    return bool(recipe.get("modules")) or (library is not None and library.runs_code)


def check_run(folder: Path, trust: bool) -> None:
    """As `check`, for the recipe of a run that was broken off; a folder without one is left to whoever resumes it.

    **Raises:** `PodarError` as `check`, and where the run's state is damaged.
    """
    if is_begun(folder):
        path = folder / WORK / STATE
        check_recipe(make(read_run_state(folder).get("recipe") or {}, of=str(path)), str(path), trust)
