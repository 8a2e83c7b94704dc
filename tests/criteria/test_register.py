"""The scorer contract: names and callables in, elementwise tensors out, one sentence for what breaks it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import podar
from podar.criteria import CRITERIA, criterion, score, unregister
from podar.errors import PodarError, UsageError
from podar.pruning.options import recipe_options

X = torch.zeros(1, 4)
DATA = [(torch.randn(8, 4), torch.arange(8) % 3) for _ in range(3)]


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6), nn.Linear(6, 3)).eval()


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_keeps_the_contract_and_prunes(name: str) -> None:
    model = network().train()
    before = copy.deepcopy(model.state_dict())
    data = [(torch.randn(8, 4), torch.arange(8) % 3) for _ in range(3)]
    scores = score(name, model, data, nn.functional.cross_entropy)
    shapes = dict(model.named_parameters())
    assert set(scores) and set(scores) <= set(shapes)
    for parameter, values in ((n, scores[n]) for n in scores):
        assert values.shape == shapes[parameter].shape and torch.isfinite(values).all() and not values.requires_grad
    assert model.training and all(p.grad is None and p.requires_grad for p in model.parameters())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items()), "scoring changes nothing"
    result = podar.prune(model, X, "channels=0.5", importance=name, data=data, loss=nn.functional.cross_entropy)
    assert sum(len(index) for index in (result.removed["0.bias"][0], result.removed["3.bias"][0])) == 7


def test_a_registered_criterion_goes_by_its_name() -> None:
    @criterion("test-last-goes")
    def last_goes(model: nn.Module, data: Any, loss: Any) -> dict[str, Tensor]:
        return {
            n: torch.arange(len(p), 0.0, -1).view(-1, *[1] * (p.dim() - 1)).expand_as(p)
            for n, p in model.named_parameters()
        }

    try:
        result = podar.prune(network(), X, "channels=0.5", importance="test-last-goes", scope="local")
        assert result.removed["0.bias"][0].tolist() == [4, 5, 6, 7]
    finally:
        unregister("test-last-goes")


def test_group_importance_counts_every_slice() -> None:
    """Channel 0 of the first layer is small where it is made and large where it is read: it stays."""
    model = network()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.fill_(0.0 if "bias" in name else 1.0)
        model[0].weight[0] = 0.1
        model[3].weight[:, 0] = 10.0
        model[0].weight[1] = 0.9
    gone = podar.prune(copy.deepcopy(model), X, "channels=0.875", scope="local").removed["0.bias"][0]
    assert gone.tolist() == [1]

    def producers_only(model: nn.Module, data: Any, loss: Any) -> dict[str, Tensor]:
        return {"0.weight": model.get_parameter("0.weight").square()}

    gone = podar.prune(model, X, "channels=0.875", scope="local", importance=producers_only).removed["0.bias"][0]
    assert gone.tolist() == [0]


@pytest.mark.parametrize(
    ("scorer", "said"),
    [
        (lambda *_: {"nothing": torch.ones(3)}, "nothing"),
        (lambda *_: {"0.weight": torch.ones(8)}, r"\(8,\).*\(8, 4\)"),
        (lambda *_: {"0.weight": torch.full((8, 4), float("nan"))}, "NaN or infinite"),
        (lambda *_: {"0.weight": torch.full((8, 4), float("inf"))}, "NaN or infinite"),
    ],
)  # fmt: skip
def test_scores_that_break_the_contract_are_refused(scorer: Any, said: str) -> None:
    model = network()
    with pytest.raises(PodarError, match=said):
        podar.prune(model, X, "channels=0.5", importance=scorer)
    assert model[0].out_features == 8


def test_unknown_names_are_answered_with_the_nearest() -> None:
    with pytest.raises(UsageError, match="did you mean 'taylor'"):
        podar.prune(network(), X, "channels=0.5", importance="tayler")
    with pytest.raises(UsageError, match="known: "):
        podar.prune(network(), X, "channels=0.5", importance="xyzzy")


# A criterion is one thing: what is declared here alone is known wherever criteria are named


@pytest.fixture
def toys() -> Iterator[None]:
    @criterion("zesty", needs=("data",))
    def zesty(model: nn.Module, data: Any, loss: Any) -> dict[str, Tensor]:
        return {n: p.detach().abs() * float(data.sum()) for n, p in model.named_parameters()}

    @criterion("zesty-units", scores="units")
    def zesty_units(graph: podar.Graph, model: nn.Module, data: Any, loss: Any) -> Any:
        return np.arange(graph.solution.units, 0, -1)  # the last go first

    yield
    unregister("zesty")
    unregister("zesty-units")


@pytest.mark.usefixtures("toys")
def test_a_toy_criterion_prunes_and_makes_sparse() -> None:
    by_toy = podar.prune(network(), X, "channels=0.5", importance="zesty", data=torch.ones(2, 2)).plan
    assert by_toy == podar.prune(network(), X, "channels=0.5", importance="magnitude-l1").plan
    gone = podar.prune(network(), X, "channels=0.5", importance="zesty-units", scope="local").removed["0.bias"][0]
    assert gone.tolist() == [4, 5, 6, 7]
    model = network()
    podar.sparsify(model, 0.5, importance="zesty", data=torch.ones(2, 2))
    assert 0.4 < podar.sparsity(model).total.fraction < 0.6


@pytest.mark.usefixtures("toys")
def test_what_a_toy_needs_and_gives_is_said_from_its_declaration() -> None:
    with pytest.raises(PodarError, match="importance 'zesty' needs data"):
        podar.prune(network(), X, "channels=0.5", importance="zesty")
    with pytest.raises(UsageError, match="did you mean 'zesty'"):
        podar.prune(network(), X, "channels=0.5", importance="zest")
    with pytest.raises(UsageError, match="scores whole units"):
        podar.sparsify(network(), 0.5, importance="zesty-units")
    with pytest.raises(UsageError, match="leave depth out"):
        podar.prune(network(), X, "channels=0.5", importance="zesty-units", depth=True)
    names = recipe_options()["importance"].told.names
    assert names is not None and "zesty" in names()


def test_without_its_declaration_it_is_unknown_and_podar_never_names_it() -> None:
    with pytest.raises(UsageError, match="no importance criterion is named 'zesty'"):
        podar.prune(network(), X, "channels=0.5", importance="zesty", data=torch.ones(2, 2))
    folder = Path(podar.__file__).parent
    assert not any("zesty" in file.read_text(encoding="utf-8") for file in folder.rglob("*.py"))
