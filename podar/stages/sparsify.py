"""sparsify: make the least weights zero, at once or while the model trains."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from podar.errors import UsageError, check_known
from podar.stages import Finding, Flag, Job, RecipeLike, StageOptions, following, stage
from podar.stages._flags import PROTECT, WEIGHT_IMPORTANCE, WEIGHT_SCOPE, fractions, importances


class Sparsify(StageOptions):
    """The arguments of `podar.sparsify`.

    `permute`: reorder channels first, so that an N:M pattern keeps more.
    `reconstruct`: what stays takes over the work of what goes, from some training pictures without their labels.
    `schedule`: not now but while the next `finetune` trains: "one-shot", "iterative", "cubic" or "rigl".
    """

    amount: Annotated[float | None, Flag("Fraction of the weights that becomes zero; N:M patterns fix it.", rank=1)] = (
        None
    )
    pattern: Annotated[
        str, Flag("unstructured, N:M such as 2:4, or blocks of outputs x inputs such as 4x1.", rank=1)
    ] = "unstructured"
    schedule: Annotated[
        str | None,
        Flag("Reach the amount while training: one-shot, iterative, cubic or rigl. Default: before it."),
    ] = None
    reconstruct: Annotated[bool, Flag("Let what stays take over, from pictures without labels.")] = False
    permute: Annotated[bool, Flag("Reorder channels first, so that N:M keeps more; same outputs.")] = False
    scope: Annotated[str, Flag(WEIGHT_SCOPE)] = "global"
    importance: Annotated[str, Flag(WEIGHT_IMPORTANCE, choices=importances)] = "magnitude"
    amounts: Annotated[
        dict[str, float],
        Flag(
            "The amount of one layer (patterns work); may be repeated.",
            metavar="LAYER=AMOUNT",
            read=fractions("--amounts"),
        ),
    ] = Field(default_factory=dict)
    protect: Annotated[tuple[str, ...], Flag(PROTECT, metavar="PATTERN")] = ()
    rounds: int | None = Field(default=None, ge=1)

    @property
    def deferred(self) -> bool:
        return self.schedule is not None

    def fit(self, recipe: RecipeLike) -> None:
        if self.schedule and "finetune" not in following(self, recipe):
            raise ValueError(
                f"the {self.schedule} schedule works while a model trains; add a finetune stage after sparsify "
                "(--data and --epochs on the command line)"
            )

    def check(self, recipe: RecipeLike) -> None:
        from podar.sparse.masking import check_amount
        from podar.sparse.patterns import NofM, Unstructured, parse_pattern
        from podar.sparse.schedules import parse_schedule
        from podar.sparse.scopes import parse_scope

        pattern = parse_pattern(self.pattern)
        check_amount(self.amount, pattern)
        parse_scope(self.scope)
        for layers, amount in self.amounts.items():
            if not 0 <= amount < 1:
                raise UsageError(f"amount {layers}={amount:g}: give the fraction that goes, from 0 to below 1.")
        if self.permute and not isinstance(pattern, NofM):
            raise UsageError(f"pattern {pattern} does not depend on the order of channels: permute goes with N:M only.")
        if self.permute and self.schedule:
            raise UsageError("permute reorders channels once, before the cut: it goes with no schedule.")
        if self.amounts and isinstance(pattern, NofM):
            raise UsageError(
                f"pattern {pattern} fixes the amount of every layer: leave the amounts of single layers out."
            )
        if self.schedule is not None:
            if self.reconstruct or self.amounts:
                raise UsageError(
                    "a schedule goes with neither reconstruction nor amounts of single layers: leave one out."
                )
            if self.schedule != "rigl":
                parse_schedule(self.schedule)
            elif not isinstance(pattern, Unstructured):
                raise UsageError(
                    f"rigl rewires single weights, so it knows no pattern {pattern}: leave the pattern out."
                )
        check_known("importance", self.importance, importances())

    def __str__(self) -> str:
        how = f", {self.schedule} schedule" if self.schedule else ", reconstructed" if self.reconstruct else ""
        amount = "" if self.amount is None else f"{100 * self.amount:g} % zeros, "
        return f"{amount}{self.pattern}, {self.scope}, by {self.importance}{how}"


@stage(
    "sparsify",
    options=Sparsify,
    changes_model=True,
    fact="sparsify",
    command="Make most weights zero, recover the accuracy, write a small checkpoint, and report.",
    then=("finetune", "export", "measure", "quantize"),
)
def sparsify(job: Job, options: Sparsify) -> Finding:
    """Make the least weights zero; where a schedule is given, fine-tuning will."""
    from podar import sparse

    facts: dict[str, Any] = {"sparsity": {"goal": str(options)}}
    if options.schedule is not None:
        return Finding(facts={**facts, "schedule": options.model_dump(mode="json")})
    data, loss = job.workshop.samples(job.model, job.recipe.seed)
    given = {
        "pattern": options.pattern, "scope": options.scope, "importance": options.importance, "data": data,
        "amounts": options.amounts or None, "protect": options.protect,
    }  # fmt: skip
    if options.permute:
        moved = sparse.permute(job.model, job.source.inputs(), options.pattern)
        facts["permuted"] = [vars(group) for group in moved]
    if options.reconstruct:
        errors = sparse.reconstruct(job.model, options.amount, **given)
        facts["reconstruction"] = [vars(error) for error in errors]
    else:
        sparse.sparsify(job.model, options.amount, rounds=options.rounds, loss=loss, **given)
    sparse.bake(job.model)
    return Finding(facts=facts)
