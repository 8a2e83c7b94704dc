"""ticket: search a lottery ticket; the model becomes it, trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from podar.errors import UsageError, check_known
from podar.reports.sections import Section, fill_template
from podar.reports.sparse import ticket_chart
from podar.stages import Finding, Flag, Job, RecipeLike, StageOptions, stage
from podar.stages._figures import point
from podar.stages._flags import PROTECT, RATE, WEIGHT_IMPORTANCE, WEIGHT_SCOPE, importances

if TYPE_CHECKING:
    from podar.reports.record import RunRecord
    from podar.tickets import Tickets

_FOLDER = "tickets"  # of a search that is under way


class Ticket(StageOptions):
    """The arguments of `podar.find_ticket`."""

    rounds: Annotated[int, Flag("How often weights are removed."), Field(ge=1)] = 10
    amount: Annotated[float, Flag("Fraction of the remaining weights that goes each round."), Field(gt=0, lt=1)] = 0.2
    rewind: Annotated[
        int,
        Flag("Rewind to these steps of the dense training; 0: to the start.", metavar="STEPS"),
        Field(ge=0),
    ] = 0
    seeds: Annotated[int, Flag("Searches, each with weights of its own."), Field(ge=1)] = 3
    controls: Annotated[
        tuple[str, ...],
        Flag("reinit, random or finetune, beside the tickets; may be repeated.", name="--control"),
    ] = ()
    every: Annotated[int, Flag("Controls run at every so many rounds, and at the last."), Field(ge=1)] = 1
    epochs: Annotated[int, Flag("Epochs of each training."), Field(ge=1)] = 5
    early_bird: Annotated[
        float | None,
        Flag("Break trainings off once their mask settles, e.g. 0.1.", metavar="DISTANCE"),
        Field(gt=0, lt=1),
    ] = None
    scope: Annotated[str, Flag(WEIGHT_SCOPE)] = "global"
    importance: Annotated[str, Flag(WEIGHT_IMPORTANCE, choices=importances)] = "magnitude"
    protect: Annotated[tuple[str, ...], Flag(PROTECT, metavar="PATTERN")] = ()
    lr: Annotated[float | None, Flag(RATE, rank=5), Field(gt=0)] = None
    batch_size: Annotated[int, Flag("Images a step of training.", rank=5), Field(ge=1)] = 128

    def fit(self, recipe: RecipeLike) -> None:
        if recipe.stages[0] is not self:
            raise ValueError("ticket trains from the beginning, so it comes first; move it there")

    def check(self, recipe: RecipeLike) -> None:
        check_known("importance", self.importance, importances())

    def __str__(self) -> str:
        back = f"step {self.rewind}" if self.rewind else "initialisation"
        seeds = "1 seed" if self.seeds == 1 else f"{self.seeds} seeds"
        return f"{self.rounds} rounds of {100 * self.amount:g} %, rewound to {back}, {seeds}"


def _curves(record: RunRecord) -> str:
    """Accuracy against the weights that remain, for tickets and controls."""
    chart = ticket_chart(record.own.get("tickets", {}))
    return fill_template(Path(__file__).with_name("ticket.html.jinja"), ticket_chart=chart)


@stage(
    "ticket",
    options=Ticket,
    changes_model=True,
    needs_data=True,
    keeps=(f"{_FOLDER}/*",),
    fact="ticket",
    command="Search a winning lottery ticket: train, remove, rewind, repeat; with controls and several seeds.",
    then=("export", "measure"),
    sections=(Section(10, _curves),),
)
def ticket(job: Job, options: Ticket) -> Finding:
    """Search a winning ticket; the model becomes it, trained, and the dense model the one trained beside it."""
    from podar import sparse
    from podar.tickets import find_ticket

    if job.source.data is None:
        raise UsageError(f"{job.recipe.model} with {job.recipe.data}: a ticket search trains classifiers on pictures.")
    if not job.source.data.labelled:
        raise UsageError(f"{job.recipe.data} has no labels: a ticket search trains classifiers, which needs some.")
    found = find_ticket(
        job.source.build, job.source.data, folder=job.scratch / _FOLDER, progress=job.progress,
        evaluate=lambda model: job.workshop.evaluate(model)["accuracy"], **options.model_dump(),
    )  # fmt: skip
    won = found.ticket(trained=True)
    job.model.load_state_dict(sparse.bake(won).state_dict())
    job.keep_dense(found.ticket(0, trained=True))
    before = job.workshop.evaluate(job.dense)
    earlier = [note for note in job.found.notes if "untrained" not in note]  # which every search begins with
    return Finding(
        before=before,
        facts={
            "sparsity": {"goal": str(options)},
            "tickets": {**found.to_json(), "round": found.best_round},
            "points": point("dense", "dense", {**before, "macs": job.found.before.macs}),
            "notes": [*earlier, *found.notes, _told(found)],
        },
    )


def _told(found: Tickets) -> str:
    """The outcome of a search in one sentence, for tickets and controls."""
    names = {"ticket": "tickets", "reinit": "drawn anew", "random": "random masks", "finetune": "not rewound"}
    parts = [f"{names[arm]} {100 * (found.smallest(arm) or 1):.2f} %" for arm in found.arms]
    return f"Least share of weights within one standard error of dense: {', '.join(parts)}."
