"""Criteria of the weights alone, against the formulas."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

import podar
from podar.criteria import score

X = torch.zeros(1, 3, 6, 6)


def network() -> Any:
    torch.manual_seed(0)
    model: Any = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.Conv2d(6, 2, 1)
    ).eval()
    nn.init.uniform_(model[1].weight, 0.1, 2)
    return model


def lowest(values: torch.Tensor, count: int) -> list[int]:
    return sorted(values.argsort()[:count].tolist())


def test_magnitude_is_the_squared_norm_of_all_slices() -> None:
    model = network()
    norms = (
        model[0].weight.square().sum((1, 2, 3))
        + sum(t.square() for t in (model[0].bias, model[1].weight, model[1].bias))
        + model[3].weight.square().sum((0, 2, 3))
    )
    gone = podar.prune(model, X, "channels=0.5", scope="local").removed["0.weight"][0]
    assert gone.tolist() == lowest(norms.detach(), 4)


def test_l1_is_the_sum_of_absolute_values() -> None:
    model = network()
    norms = (
        model[0].weight.abs().sum((1, 2, 3))
        + sum(t.abs() for t in (model[0].bias, model[1].weight, model[1].bias))
        + model[3].weight.abs().sum((0, 2, 3))
    )
    gone = podar.prune(model, X, "channels=0.5", scope="local", importance="magnitude-l1").removed["0.weight"][0]
    assert gone.tolist() == lowest(norms.detach(), 4)


def test_batch_norm_scales_decide_where_there_are_some_and_magnitude_elsewhere() -> None:
    model = network()
    scales = model[1].weight.detach().abs().clone()
    norms = model[3].weight.square().sum((1, 2, 3)) + model[3].bias.square() + model[4].weight.square().sum((0, 2, 3))
    result = podar.prune(model, X, "channels=0.5", scope="local", importance="bn-scale")
    assert result.removed["0.weight"][0].tolist() == lowest(scales, 4)
    assert result.removed["3.weight"][0].tolist() == lowest(norms.detach(), 3)


def test_random_follows_the_seed() -> None:
    gone = []
    for seed in (1, 1, 2, 3):
        model = network()
        torch.manual_seed(seed)
        gone.append(podar.prune(model, X, "channels=0.5", importance="random").removed["0.weight"][0].tolist())
    assert gone[0] == gone[1] and len({tuple(g) for g in gone}) > 1


def test_scores_do_not_depend_on_frozen_gradients() -> None:
    model = network()
    before = score("magnitude", model)["0.weight"].clone()
    model.requires_grad_(False)
    assert torch.equal(score("magnitude", model)["0.weight"], before)
