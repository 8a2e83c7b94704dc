"""Optimizers by name, class, function or as given, with the rates of their groups, and schedules."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import podar
from podar.errors import UsageError
from podar.recover.optimizers import SCHEDULES, optimizer_for, rate_factor, schedule_for

X = torch.rand(16, 4, generator=torch.Generator().manual_seed(0))
BATCHES = [(X, X.sum(1, keepdim=True))]
OPTIONS: dict[str, Any] = {"loss": functional.mse_loss, "epochs": 3, "precision": "fp32"}


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))


@pytest.mark.parametrize(
    "asked", ["adam", "AdamW", "sgd", "rmsprop", torch.optim.NAdam, lambda weights: torch.optim.SGD(weights, 0.1)]
)
def test_every_form_of_an_optimizer_learns(asked: Any) -> None:
    history = podar.finetune(net(), BATCHES, optimizer=asked, **OPTIONS)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]


def test_the_default_is_sgd_and_adamw_where_there_are_layer_norms_only() -> None:
    assert isinstance(optimizer_for(net(), None, None, 128), torch.optim.SGD)
    assert isinstance(
        optimizer_for(nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), None, None, 128), torch.optim.AdamW
    )


def test_the_groups_of_a_given_optimizer_keep_their_rates_in_proportion() -> None:
    model = net()
    optimizer = torch.optim.SGD(
        [{"params": list(model[0].parameters()), "lr": 0.0}, {"params": list(model[2].parameters())}], lr=0.1
    )
    before = [p.detach().clone() for p in model.parameters()]
    podar.finetune(model, BATCHES, optimizer=optimizer, **OPTIONS)
    changed = [not torch.equal(p, q) for p, q in zip(model.parameters(), before)]
    assert changed == [False, False, True, True]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adamx"}, "there is no optimizer 'adamx'; did you mean"),
        ({"optimizer": 3}, "optimizer=3 is no optimizer"),
        ({"optimizer": torch.optim.LBFGS}, "LBFGS computes the loss several times"),
        ({"optimizer": lambda weights: None}, "gives a NoneType, and no optimizer"),
        ({"optimizer": torch.optim.SGD(net().parameters(), 0.1)}, "holds other parameters than the model's"),
        ({"schedule": "cosin"}, "there is no schedule 'cosin'; did you mean cosine"),
    ],
)
def test_what_is_no_optimizer_or_schedule(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        podar.finetune(net(), BATCHES, **OPTIONS, **options)
    with pytest.raises(UsageError, match="learning rates of its own"):
        model = net()
        podar.finetune(model, BATCHES, optimizer=torch.optim.SGD(model.parameters(), 0.1), lr=0.1, **OPTIONS)


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_begin_at_the_highest_rate_after_a_warm_up(name: str) -> None:
    schedule = schedule_for(name)
    assert schedule(0.0) == 1.0
    assert rate_factor(schedule, 0, 100, 0.0) == pytest.approx(0.2)
    assert rate_factor(schedule, 99, 100, 0.99) == pytest.approx(schedule(0.99))
    history = podar.finetune(net(), BATCHES, schedule=lambda share: 0.5, lr=0.1, **OPTIONS)
    assert history.epochs[-1]["lr"] == 0.05
