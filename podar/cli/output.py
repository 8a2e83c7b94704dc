"""What all commands have in common: the options that stand anywhere, progress, running a recipe, its end."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.cli import console

if TYPE_CHECKING:
    from podar.runs.recipe import Recipe


@dataclass
class Common:
    """The options that every command knows, and the command line as typed."""

    json: bool = False
    quiet: bool = False
    debug: bool = False
    command: str = "podar"


common = Common()


@contextmanager
def working(first: str = "") -> Generator[Any]:
    """A progress bar to tell (None where nobody looks); `first` is what it says before it is told anything."""
    with console.progress(common.quiet or common.json) as progress:
        if progress and first:
            progress(first, 0, 0, {})
        yield progress


def run_recipe(recipe: Recipe, out: Path | None, *, trust: bool = False, replace: bool = False) -> None:
    """Carry out a recipe in a folder, or in the next free one, with a progress bar and the table at the end."""
    from podar.runs import running

    folder = out or running.free_folder(recipe)
    with working() as progress:
        summary = running.start(recipe, folder, command=common.command, trust=trust, replace=replace, progress=progress)
    end(summary, folder)


def end(summary: dict[str, Any], folder: Path, report: Path | None = None) -> None:
    """The end of a run: the table and the report's path, or the summary as JSON."""
    from podar.runs import finishing

    if common.json:
        print_json(summary)
        return
    screen = console.out()
    for piece in console.headline_table(summary):
        screen.print(piece)
    screen.print(f"Report: {report or folder / finishing.REPORT}", markup=False, soft_wrap=True)


def print_json(data: Any) -> None:
    """One JSON object on standard output; what a terminal would obey is escaped, as JSON may."""
    sys.stdout.write(console.escaped_json(json.dumps(data, indent=1, ensure_ascii=False)) + "\n")
    sys.stdout.flush()
