"""Keeps the zeros of a model while it is trained, or lets the training make them by a schedule."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from podar.stages import Job

if TYPE_CHECKING:
    from torch import nn

    from podar.sparse import Keeper

MADE_SPARSE = 0.1  # a model with that share of zeros was made so, and training is not to fill them


def keeper(job: Job) -> Callable[[nn.Module], Keeper]:
    """A function that makes the keeper of a model: it holds the zeros that are there, or makes them by the schedule."""
    from podar import sparse

    planned = job.found.own("schedule")
    if planned is None:
        return sparse.keep
    data, loss = job.workshop.samples(job.model, job.recipe.seed)
    given = {"importance": planned["importance"], "data": data, "loss": loss, "protect": planned["protect"]}
    amount, scope, schedule = planned["amount"], planned["scope"], planned["schedule"]
    if schedule == "rigl":
        # RigL keeps every layer's density for good, so those of Erdős–Rényi stand for one rank over all layers.
        scope = "erk" if scope == "global" else scope
        return lambda model: sparse.rigl(model, amount or 0.0, scope=scope, **given)
    return lambda model: sparse.gradual(
        model, amount, schedule=schedule, pattern=planned["pattern"], scope=scope, **given
    )


def reach_amount(job: Job) -> None:
    """Make the zeros that the schedule asks for, where some are missing after the training.

    A trainer that puts its best weights back may return to a time when the schedule was not at its end.
    """
    import torch

    from podar import sparse
    from podar.sparse.layers import weights_of
    from podar.sparse.masking import check_amount
    from podar.sparse.patterns import parse_pattern

    planned: dict[str, Any] | None = job.found.own("schedule")
    if planned is None:
        return
    weights = weights_of(job.model, planned["protect"])
    zeros = sum(w.values.numel() - int(torch.count_nonzero(w.values)) for w in weights)
    amount = check_amount(planned["amount"], parse_pattern(planned["pattern"]))
    if zeros < (amount - 1e-3) * sum(w.values.numel() for w in weights):
        asked = {key: planned[key] for key in ("pattern", "scope", "protect")}
        sparse.sparsify(job.model, planned["amount"], **asked)
        sparse.bake(job.model)


def share_of_zeros(model: nn.Module) -> float:
    """Zeros among the prunable weights; layers that hold nothing else are left out, since some begin like that."""
    from podar import sparse

    layers = [layer for layer in sparse.sparsity(model).layers if layer.zeros < layer.weights]
    return sum(layer.zeros for layer in layers) / max(1, sum(layer.weights for layer in layers))
