"""finetune: train the cut model until its accuracy is back."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field, field_validator

from podar.errors import UsageError
from podar.libraries import workshop_of
from podar.reports import charts
from podar.reports.sections import Section, fill_template
from podar.stages import Finding, Flag, Job, RecipeLike, StageOptions, stage
from podar.stages._flags import RATE

if TYPE_CHECKING:
    from podar.reports.record import RunRecord


def _precisions() -> Iterable[str]:
    return ("auto", "bf16", "fp32")


EPOCHS = 5
"""So many where nothing else is asked for and the data have labels."""


class Finetune(StageOptions):
    """The options of `podar.finetune`. `epochs` None: 5, and none where the data have no labels.
    `distill`: the unpruned model is the teacher.

    `precision`: "fp32" or "bf16", with ", channels_last" where that layout is wanted; None, or "auto": the fastest of a
    few timed steps, decided once for the run. `settings`: further arguments of the model's own trainer (Ultralytics),
    where it has one.
    """

    file_options: ClassVar[tuple[str, ...]] = ("settings",)
    settings: Annotated[
        dict[str, Any],
        Flag("YOLO: any further argument of Ultralytics' trainer.", metavar="[KEY=VALUE]…", argument=True, rank=1),
    ] = Field(default_factory=dict)
    epochs: Annotated[
        int | None,
        Flag("Epochs of fine-tuning afterwards; 0 trains nothing. Default: 5, 0 without labels.", least=0, rank=2),
        Field(ge=1),
    ] = None
    lr: Annotated[float | None, Flag(RATE, rank=5), Field(gt=0)] = None
    batch_size: Annotated[
        int | None,
        Flag("Images a step of fine-tuning. Default: 128; YOLO: Ultralytics' own.", rank=5),
        Field(ge=1),
    ] = None
    seconds: Annotated[float | None, Flag("Stop fine-tuning after this time.", metavar="S", rank=5), Field(gt=0)] = None
    distill: Annotated[bool, Flag("Do not learn from the model as it was.", name="--no-distill", rank=5)] = True
    label_smoothing: float = Field(default=0.1, ge=0, lt=1)
    precision: Annotated[
        str | None,
        Flag(
            "Train in fp32 or bf16. Default: auto, the fastest of a few timed steps.",
            metavar="NAME",
            choices=_precisions,
            rank=7,
        ),
    ] = None

    @field_validator("precision")
    @classmethod
    def _auto_is_none(cls, value: str | None) -> str | None:
        return None if value == "auto" else value

    def fit(self, recipe: RecipeLike) -> None:
        if recipe.deterministic and (self.seconds or "time" in self.settings):
            raise ValueError(
                "finetune stops after a time, which is another step each time it runs, and the recipe is to be "
                "deterministic; leave seconds away (--seconds, time=) or deterministic"
            )

    def check(self, recipe: RecipeLike) -> None:
        from podar.recover.precision import check_precision

        check_precision(self.precision)
        workshop_of(recipe.model).check_training(
            recipe.data, precision=self.precision, distill=self.distill, settings=self.settings
        )

    @classmethod
    def from_flags(cls, given: dict[str, Any], data: str | None) -> dict[str, Any] | None:
        from podar.sources.naming import parse_model_args

        settings: list[str] = given.pop("settings", None) or []
        if data is not None and given["epochs"] != 0:
            return {**given, "settings": parse_model_args(settings, option="")}
        if settings:
            raise UsageError(
                f"{settings[0]} is an argument of training, and nothing is trained without --data and --epochs."
            )
        if given["precision"] is not None:
            raise UsageError(
                f"--precision {given['precision']} is that of training, and nothing is trained without --data and "
                "--epochs."
            )
        return None


def _recovery(record: RunRecord) -> str:
    """How accuracy and loss went over the epochs."""
    quality = "mAP 50–95" if record.detector else "accuracy"
    return fill_template(
        Path(__file__).with_name("finetune.html.jinja"),
        detector=record.detector,
        quality=quality,
        accuracy_chart=charts.over_epochs(
            record.history, "val_accuracy", f"validation {quality}", charts.short_percent
        ),
        loss_chart=charts.over_epochs(record.history, "loss", "training loss", lambda loss: f"{loss:.3g}"),
    )


@stage(
    "finetune",
    options=Finetune,
    title="fine-tune",
    changes_model=True,
    needs_data=True,
    keeps=("files/weights/last.pt",),
    sections=(Section(60, _recovery),),
)
def finetune(job: Job, options: Finetune) -> Finding:
    """Train the model; where `distill` is on and it was cut, the unpruned one is its teacher."""
    from podar.stages._zeros import MADE_SPARSE, keeper, reach_amount, share_of_zeros
    from podar.workshops import TrainingOptions

    made_sparse = job.found.own("sparsity") is not None  # by a stage of this run; else the model may have come so
    came_sparse = 0.0 if made_sparse else share_of_zeros(job.model)
    sparse = made_sparse or came_sparse >= MADE_SPARSE
    unlabelled = job.source.data is not None and not job.source.data.labelled
    deferred = any(getattr(stage, "deferred", False) for stage in job.recipe.stages)
    if unlabelled and options.epochs is None and not deferred:
        return Finding()
    settled = f"{job.step}: precision"
    training = TrainingOptions(
        checkpoint=job.checkpoint,
        files=job.files,
        epochs=EPOCHS if options.epochs is None else options.epochs,
        lr=options.lr,
        batch_size=options.batch_size,
        seconds=options.seconds,
        label_smoothing=options.label_smoothing,
        teacher=job.dense if options.distill and job.was_cut else None,
        precision=job.settled.get(settled) or options.precision or ("fp32" if job.recipe.deterministic else None),
        chosen=lambda precision: job.settle(settled, precision),
        settings=options.settings,
        seed=job.recipe.seed,
        progress=job.progress,
        keeper=keeper(job) if sparse else None,
    )
    history = job.workshop.train(job.model, training)
    reach_amount(job)
    offset = max((epoch["epoch"] for epoch in job.found.history), default=0)
    epochs = [{**epoch, "epoch": epoch["epoch"] + offset} for epoch in history.epochs]
    notes: list[str] = []
    if sparse and not made_sparse:
        notes.append(f"{100 * came_sparse:.1f} % of the weights were zero already: fine-tuning left them so")
    if history.stopped:
        notes.append(f"fine-tuning stopped early: {history.stopped}")
    facts = {"history": [*job.found.history, *epochs], "precision": history.precision}
    return Finding(notes=tuple(notes), facts=facts)
