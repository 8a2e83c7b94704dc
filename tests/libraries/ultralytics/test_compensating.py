"""A cut YOLO is solved anew from its own data's pictures: both heads come nearer, and stay in step."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from podar.libraries.ultralytics import open_model, prune
from podar.libraries.ultralytics.cutting import ONE_TO_ONE, errors_in_step, trace_model
from podar.recover import recalibrate

pytestmark = pytest.mark.filterwarnings("ignore")  # Ultralytics' and its libraries' own

HEADS = ("one2one", "one2many")


def detector() -> nn.Module:
    """Random weights whose norms pass their features on."""
    torch.manual_seed(0)
    model = open_model("yolo26n.yaml", {"nc": 6}, False).make()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
    recalibrate(model, pictures(16))
    return model.eval()


def pictures(count: int, seed: int = 1) -> Tensor:
    drawn = torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(seed))
    return nn.functional.avg_pool2d(drawn, 9, 1, 4) * 4


def answers(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    with torch.no_grad():
        found: Any = model(x)[1]
    return {head: torch.cat([found[head][part].flatten() for part in ("boxes", "scores")]) for head in HEADS}


def test_units_that_stand_for_one_another_in_both_heads_get_one_error() -> None:
    graph = trace_model(open_model("yolo26n.yaml", {"nc": 6}, False).make(), torch.zeros(1, 3, 64, 64))
    errors = np.random.default_rng(0).random(graph.solution.units)
    shared = errors_in_step(graph, errors)
    groups = {group.name: group for group in graph.groups}
    twins = [(g, groups[n.replace(ONE_TO_ONE, "")]) for n, g in groups.items() if ONE_TO_ONE in n]
    assert twins
    for one, other in twins:
        for a, b in zip(one.families, other.families):
            np.testing.assert_array_equal(shared[graph.families[a].units], shared[graph.families[b].units])


@pytest.mark.slow
def test_both_heads_come_nearer_and_train_as_before() -> None:
    dense, x, new = detector(), pictures(32), pictures(8, seed=2)
    plain, solved = copy.deepcopy(dense), copy.deepcopy(dense)
    prune(plain, x[:1], "macs=0.6")
    result = prune(solved, x[:1], "macs=0.6", importance="magnitude", compensate=True, data=x)
    assert result.compensation is not None and result.compensation.solved
    wanted, one, other = (answers(model, new) for model in (dense, solved, plain))
    for head in HEADS:
        assert (one[head] - wanted[head]).square().mean() < (other[head] - wanted[head]).square().mean()
    solved.train()
    assert set(solved(new)) == set(HEADS)


@pytest.mark.slow
def test_by_reconstruction_both_heads_lose_the_same() -> None:
    model, x = detector(), pictures(4)
    result = prune(model, x[:1], "macs=0.6", importance="reconstruction", data=x)
    assert abs(result.after.macs / result.before.macs - 0.6) <= 0.03
    assert result.compensation is not None and result.compensation.solved
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    assert all(shapes.get(name.replace(ONE_TO_ONE, ""), shape) == shape for name, shape in shapes.items())


@pytest.mark.slow
def test_a_data_yaml_is_read_for_compensation(scenes: Callable[[str], Path]) -> None:
    torch.manual_seed(0)
    model = open_model("yolo26n.yaml", {"nc": 6}, False).make()
    x = torch.zeros(1, 3, 64, 64)
    asked: dict[str, Any] = {"importance": "magnitude", "data": scenes("detect"), "ratios": {"model.1": 0.5}}
    assert prune(copy.deepcopy(model), x, **asked).compensation is None
    found = prune(model, x, compensate=True, **asked).compensation
    assert found is not None and found.failed is None and found.consumers
