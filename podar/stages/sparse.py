"""The stages of a run that leave zeros: sparsify, ticket, and the count of zeros that ends them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from podar.errors import UsageError
from podar.stages.recipes import Recipe, Sparsify, Ticket

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from podar.sparse import Keeper
    from podar.stages.work import Job
    from podar.tickets import Tickets

SPARSE_FILE = "model.sparse.safetensors"
TICKETS = "tickets"  # folder of a search that is under way
SPARSE = 0.1  # a model with that share of zeros was made so, and training is not to fill them
_BINS = 60


def check_sparsify(options: Sparsify) -> None:
    """Refuse what makes no sense before anything is loaded.

    **Raises:** `UsageError`.
    """
    from podar.sparse.masking import check_amount
    from podar.sparse.patterns import NofM, Unstructured, parse_pattern
    from podar.sparse.schedules import parse_schedule
    from podar.sparse.scopes import parse_scope

    pattern = parse_pattern(options.pattern)
    check_amount(options.amount, pattern)
    parse_scope(options.scope)
    for layers, amount in options.amounts.items():
        if not 0 <= amount < 1:
            raise UsageError(f"amount {layers}={amount:g}: give the fraction that goes, from 0 to below 1.")
    if options.permute and not isinstance(pattern, NofM):
        raise UsageError(f"pattern {pattern} does not depend on the order of channels: permute goes with N:M only.")
    if options.permute and options.schedule:
        raise UsageError("permute reorders channels once, before the cut: it goes with no schedule.")
    if options.amounts and isinstance(pattern, NofM):
        raise UsageError(f"pattern {pattern} fixes the amount of every layer: leave the amounts of single layers out.")
    if options.schedule is None:
        return
    if options.reconstruct or options.amounts:
        raise UsageError("a schedule goes with neither reconstruction nor amounts of single layers: leave one out.")
    if options.schedule != "rigl":
        parse_schedule(options.schedule)
    elif not isinstance(pattern, Unstructured):
        raise UsageError(f"rigl rewires single weights, so it knows no pattern {pattern}: leave the pattern out.")


def sparsify(job: Job, options: Sparsify, data: Any, loss: Any) -> dict[str, Any]:
    """Make the least weights zero; where a schedule is given, fine-tuning will."""
    from podar import sparse

    goal = {"goal": str(options)}
    if options.schedule is not None:
        return {"sparsity": goal, "schedule": options.model_dump(mode="json")}
    given = {
        "pattern": options.pattern, "scope": options.scope, "importance": options.importance, "data": data,
        "amounts": options.amounts or None, "protect": options.protect,
    }  # fmt: skip
    fragment: dict[str, Any] = {"sparsity": goal}
    if options.permute:
        moved = sparse.permute(job.model, job.source.inputs(), options.pattern)
        fragment["permuted"] = [vars(group) for group in moved]
    if options.reconstruct:
        errors = sparse.reconstruct(job.model, options.amount, **given)
        fragment["reconstruction"] = [vars(error) for error in errors]
    else:
        sparse.sparsify(job.model, options.amount, rounds=options.rounds, loss=loss, **given)
    sparse.bake(job.model)
    return fragment


def keeper(job: Job, data: Any, loss: Any) -> Callable[[nn.Module], Keeper]:
    """Makes what keeps, or makes, the zeros of a model while it trains."""
    from podar import sparse

    planned = job.found.get("schedule")
    if planned is None:
        return sparse.keep
    options = Sparsify.model_validate(planned)
    given = {"importance": options.importance, "data": data, "loss": loss, "protect": options.protect}
    if options.schedule == "rigl":
        # RigL keeps every layer's density for good, so those of Erdős–Rényi stand for one rank over all layers.
        scope = "erk" if options.scope == "global" else options.scope
        return lambda model: sparse.rigl(model, options.amount or 0.0, scope=scope, **given)
    schedule = options.schedule or "cubic"
    return lambda model: sparse.gradual(
        model, options.amount, schedule=schedule, pattern=options.pattern, scope=options.scope, **given
    )


def complete(job: Job) -> None:
    """A trainer that puts its best weights back may return to a time when the schedule was not at its end."""
    from podar import sparse
    from podar.sparse.layers import weights_of
    from podar.sparse.masking import check_amount
    from podar.sparse.patterns import parse_pattern

    planned = job.found.get("schedule")
    if planned is None:
        return
    options = Sparsify.model_validate(planned)
    weights = weights_of(job.model, options.protect)
    zeros = sum(w.values.numel() - int(torch.count_nonzero(w.values)) for w in weights)
    amount = check_amount(options.amount, parse_pattern(options.pattern))
    if zeros < (amount - 1e-3) * sum(w.values.numel() for w in weights):
        sparse.sparsify(
            job.model, options.amount, pattern=options.pattern, scope=options.scope, protect=options.protect
        )
        sparse.bake(job.model)


def ticket(job: Job, options: Ticket) -> dict[str, Any]:
    """Search a winning ticket; the model becomes it, trained, and the dense model the one trained beside it."""
    from podar import sparse
    from podar.tickets import find_ticket

    if job.source.data is None:
        raise UsageError(f"{job.recipe.model} with {job.recipe.data}: a ticket search trains classifiers on pictures.")
    given = options.model_dump()
    found = find_ticket(
        job.source.build, job.source.data, folder=job.scratch / TICKETS, progress=job.progress,
        evaluate=lambda model: job.workshop.evaluate(model)["accuracy"], **given,
    )  # fmt: skip
    won = found.ticket(trained=True)
    job.model.load_state_dict(sparse.bake(won).state_dict())
    job.keep_dense(found.ticket(0, trained=True))
    before = job.workshop.evaluate(job.dense)
    return {
        "sparsity": {"goal": str(options)},
        "tickets": {**found.to_json(), "round": found.best_round},
        "before": before,
        "points": [{"name": "dense", "stage": "dense", **before, "macs": job.found["before"]["macs"]}],
        "notes": [*_without_untrained(job.found.get("notes", [])), *found.notes, told(found)],
    }


def told(found: Tickets) -> str:
    """The outcome of a search in one sentence, for tickets and controls."""
    names = {"ticket": "tickets", "reinit": "drawn anew", "random": "random masks", "finetune": "not rewound"}
    parts = [f"{names[arm]} {100 * (found.smallest(arm) or 1):.2f} %" for arm in found.arms]
    return f"Least share of weights within one standard error of dense: {', '.join(parts)}."


def count(job: Job) -> dict[str, Any]:
    """Zeros of every layer, the weights' histogram before and after, and a checkpoint that leaves the zeros out."""
    from podar import sparse

    after, before = sparse.sparsity(job.model), sparse.sparsity(job.dense)
    sizes = {}
    for half, model, name in (("before", job.dense, "dense.check"), ("after", job.model, SPARSE_FILE)):
        folder = job.scratch if half == "before" else job.files
        sizes[half] = sparse.save_sparse(model, folder / name).stat().st_size
    dense = sum(t.numel() * t.element_size() for t in _tensors(job.dense).values())
    (job.scratch / "dense.check").unlink()
    return {
        "before": {"nonzero": before.weights - before.zeros, "checkpoint_bytes": max(dense, sizes["before"])},
        "after": {"nonzero": after.weights - after.zeros, "checkpoint_bytes": sizes["after"]},
        "sparsity": {
            **job.found["sparsity"],
            "zeros": after.zeros,
            "weights": after.weights,
            "fraction": after.fraction,
            "layers": [vars(layer) for layer in after.layers],
        },
        "histogram": histogram(job.dense, job.model),
        **({"notes": job.noted(after.starved)} if after.starved else {}),
    }


def share_of_zeros(model: nn.Module) -> float:
    """Zeros among the prunable weights; layers that hold nothing else are left out, since some begin like that."""
    from podar import sparse

    layers = [layer for layer in sparse.sparsity(model).layers if layer.zeros < layer.weights]
    return sum(layer.zeros for layer in layers) / max(1, sum(layer.weights for layer in layers))


def histogram(dense: nn.Module, sparse: nn.Module) -> dict[str, Any]:
    """Counts of all prunable weights between common edges, before and after; exact zeros are counted apart."""
    from podar.sparse.layers import weights_of

    both = [
        torch.cat([w.values.flatten().float().cpu() for w in weights_of(model, computed="skip")])
        for model in (dense, sparse)
    ]
    # A few outliers would squeeze everything else into one bin: they are counted in the outermost.
    reach = max(float(_quantile(values.abs(), 0.999)) for values in both) or 1.0
    counts = [torch.histc(v[v != 0].clamp(-reach, reach), _BINS, -reach, reach).long().tolist() for v in both]
    return {
        "low": -reach, "high": reach, "before": counts[0], "after": counts[1],
        "before_zeros": int((both[0] == 0).sum()), "after_zeros": int((both[1] == 0).sum()),
    }  # fmt: skip


def leaves_zeros(recipe: Recipe) -> bool:
    """Whether a recipe has a stage that makes weights zero."""
    return any(isinstance(stage, (Sparsify, Ticket)) for stage in recipe.stages)


def _quantile(values: Tensor, share: float) -> Tensor:
    """`torch.quantile` refuses more than 16 million values."""
    return values.kthvalue(max(1, round(share * values.numel()))).values


def _tensors(model: nn.Module) -> dict[int, Tensor]:
    return {t.data_ptr(): t for t in model.state_dict().values()}


def _without_untrained(notes: list[str]) -> list[str]:
    """A search begins with untrained weights: that they are is no news."""
    return [note for note in notes if "untrained" not in note]
