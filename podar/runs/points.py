"""A point of a sweep as a run: begun, gone on with, or left as it is where it is finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.reports.summary import SUMMARY
from podar.runs import folder, running
from podar.runs.recipe import make
from podar.trust import user_code

if TYPE_CHECKING:
    from podar.stages import Progress


def carry_out(data: Mapping[str, Any], progress: Progress) -> None:
    """Do one point; what `podar.sweeps.executors` call, in whichever process.

    **Arguments:** `data`: `folder`, `recipe` (plain), `command`, `trust`, `despite_changes`. Whoever makes it has the
    user's consent to run the files that the recipe names.

    **Raises:** `PodarError` as `podar.runs.running.start` and `resume`.
    """
    out, recipe = Path(data["folder"]), make(data["recipe"], of=str(data["folder"]))
    if is_finished(out):
        return
    user_code.take(recipe.modules)
    if folder.is_begun(out):
        # The consent of the whole sweep is that of its points; trust in pickles of the data is another.
        trust = data["trust"] or _names_code(data["recipe"])
        running.resume(out, trust=trust, despite_changes=data["despite_changes"], progress=progress)
    else:
        running.start(recipe, out, command=data["command"], trust=data["trust"], progress=progress)


def is_finished(out: Path) -> bool:
    """Whether the run in a folder is whole."""
    return (out / SUMMARY).is_file() and not folder.is_begun(out)


def _names_code(recipe: Any) -> bool:
    from podar.runs.consent import names_code

    return names_code(recipe)
