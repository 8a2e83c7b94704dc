"""The optimizer of a training, and how its learning rates go: made from a name, a class or a function, or as given."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from podar.errors import UsageError, check_known

Schedule = Callable[[float], float]
"""From the share of the training that is done, 0 to 1, to the share of the highest learning rate."""

WARM_UP = 0.05  # share of all steps
MOMENTUM, DECAY = 0.9, 5e-4
SGD_RATE, ADAPTIVE_RATE, ADAPTIVE_DECAY = 0.05, 5e-4, 0.05  # rates for batches of 128

SCHEDULES: dict[str, Schedule] = {
    "cosine": lambda share: (1 + math.cos(math.pi * share)) / 2,
    "linear": lambda share: 1 - share,
    "constant": lambda share: 1.0,
}


def optimizer_for(
    model: nn.Module, asked: Any, lr: float | None, batch_size: int, adaptive: bool = False
) -> torch.optim.Optimizer:
    """The optimizer of the parameters that can be trained.

    **Arguments:** `asked`: as `optimizer` of `podar.finetune`. `lr`: the highest learning rate; None: 0.05 for SGD,
    5e-4 for others, for batches of 128 and in proportion. `adaptive`: None is AdamW and not SGD.

    **Raises:** `UsageError` for an unknown name, an optimizer that has parameters of another model or that is none.
    """
    if isinstance(asked, torch.optim.Optimizer):
        return _given(model, asked, lr)
    if asked is None:
        asked = "adamw" if adaptive or wants_adam(model) else "sgd"
    kind: Any = _named(asked) if isinstance(asked, str) else asked
    if not callable(kind):
        raise UsageError(
            f"optimizer={asked!r} is no optimizer: give a name such as adamw, a class of torch.optim, a function of "
            "the parameters, or an optimizer over the model's parameters."
        )
    if kind is torch.optim.LBFGS:
        raise UsageError("LBFGS computes the loss several times a step, which a training here does not: take another.")
    sgd = kind is torch.optim.SGD
    rate = lr if lr is not None else (SGD_RATE if sgd else ADAPTIVE_RATE) * batch_size / 128
    decay = {torch.optim.SGD: DECAY, torch.optim.AdamW: ADAPTIVE_DECAY}.get(kind)
    weights = [p for p in model.parameters() if p.requires_grad]
    if not isinstance(kind, type):
        made = kind(weights)
        if not isinstance(made, torch.optim.Optimizer):
            raise UsageError(f"the function that is optimizer= gives a {type(made).__name__}, and no optimizer.")
        return _given(model, made, lr)
    groups: list[dict[str, Any]] = [{"params": weights}]
    if decay is not None:  # norms and biases are not decayed
        groups = [
            {"params": [p for p in weights if p.dim() > 1], "weight_decay": decay},
            {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
        ]
    groups = [group for group in groups if group["params"]]
    options: dict[str, Any] = {"momentum": MOMENTUM, "nesterov": True} if sgd else {}
    return kind(groups, lr=rate, **options)


def wants_adam(model: nn.Module) -> bool:
    """Networks normalised by layer norms alone train badly with SGD."""
    kinds = [type(m).__name__ for m in model.modules()]
    return not any("BatchNorm" in k for k in kinds) and any("LayerNorm" in k or "RMSNorm" in k for k in kinds)


def schedule_for(asked: str | Schedule) -> Schedule:
    """The function that a name stands for, or the function that was given.

    **Raises:** `UsageError`.
    """
    if callable(asked):
        return asked
    check_known("schedule", asked, SCHEDULES)
    return SCHEDULES[asked]


def rate_factor(schedule: Schedule, done: int, total: int, share: float) -> float:
    """What the highest learning rates are multiplied by in step `done` (from 0) of `total`: warm-up, then schedule."""
    return min(1.0, (done + 1) / (WARM_UP * total)) * schedule(share)


def _named(name: str) -> type[torch.optim.Optimizer]:
    kinds = {
        key.lower(): kind
        for key, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, torch.optim.Optimizer) and kind is not torch.optim.Optimizer
    }
    check_known("optimizer", name.lower(), kinds)
    return kinds[name.lower()]


def _given(model: nn.Module, optimizer: torch.optim.Optimizer, lr: float | None) -> torch.optim.Optimizer:
    """An optimizer that somebody else made, where it is one for this model."""
    own = {id(p) for p in model.parameters()}
    held = [p for group in optimizer.param_groups for p in group["params"]]
    if not held or any(id(p) not in own for p in held):
        raise UsageError(
            "the optimizer holds other parameters than the model's (a cut makes new ones): make it after the cut, or "
            "give its class."
        )
    if lr is not None:
        raise UsageError("the optimizer has learning rates of its own, and lr= another: leave lr away.")
    return optimizer
