"""evaluate: costs and quality of the model as the stages left it, and pictures with both models' answers."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.reports.sections import Section, fill_template
from podar.stages import Finding, Job, StageOptions, stage
from podar.stages._figures import point, points, quality

if TYPE_CHECKING:
    from podar.reports.record import RunRecord


def _sights(record: RunRecord) -> str:
    """Test pictures with the answers of both models."""
    return fill_template(
        Path(__file__).with_name("evaluate.html.jinja"),
        pictures=[(picture, _data_uri(picture.png)) for picture in record.pictures],
        scenes=[(scene.caption, _data_uri(scene.png)) for scene in record.scenes],
    )


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


@stage("evaluate", comes="changed", sections=(Section(70, _sights),))
def evaluate(job: Job, options: StageOptions) -> Finding:
    """Count what the model costs now, and evaluate it."""
    # The sizes are those of the last cut, which the cut itself counted; what changed only values left them alone.
    sizes = {"params", "macs", "bytes", "activation_bytes"}
    known = {**job.found.before.plain(), **job.found.after.plain()}
    after = {key: value for key, value in known.items() if key in sizes}
    if job.untouched:  # its quality is known
        after |= job.found.before.plain()
    else:
        after |= {**job.workshop.figures(job.model, job.source.inputs()), **quality(job)}
    searched = job.found.own("tickets") is not None
    tuned = bool(job.found.history) or searched
    way = points(job)
    if not tuned:  # the last cut is the end of the way
        way = [found for found in way if found["stage"] != "cut"]
    name = "ticket" if searched else "fine-tuned" if tuned else "pruned"
    facts: dict[str, Any] = {"points": [*way, *point(name, "final", after)]}
    facts |= job.workshop.pictures(job.dense, job.model, job.files)
    notes: tuple[str, ...] = ()
    if not tuned and job.was_cut:
        facts["outputs_moved"], note = _untuned(job)
        notes = (note,)
    return Finding(after=after, notes=notes, facts=facts)


def _untuned(job: Job) -> tuple[float | None, str]:
    """How far the outputs moved, and what is to be said of a cut after which nothing was trained."""
    from podar.model.drift import moved

    share = moved(job.dense, job.model, job.source.inputs())
    how_far = "" if share is None else f": on the example inputs the outputs moved by {100 * share:.3g} % of their size"
    how = "add --data" if job.recipe.data is None else "add --epochs"
    return share, f"nothing was fine-tuned after the cut{how_far}; {how} to win accuracy back"
