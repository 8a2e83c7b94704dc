"""What units are worth where what stays takes over, and the whole way by `podar.prune(..., data=inputs)`."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

import podar
from podar.compensation import worth
from podar.criteria.unit_sums import unit_scores
from podar.errors import PodarError, UsageError


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 16, 3),
    ).eval()  # fmt: skip


def redundant() -> nn.Module:
    """Sixteen hidden units of which twelve are sums of the other four."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 5)).eval()
    first = model[0]
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        first.weight.copy_(torch.randn(16, 4) @ torch.randn(4, 8))
    return model


def inputs(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


X = inputs(96, 2, 6, 6)


def found(model: nn.Module, x: torch.Tensor, **options: int) -> tuple[podar.Graph, np.ndarray]:
    graph = podar.trace(model, x[:1])
    return graph, worth(graph, model, x, unit_scores(graph), **options).errors


def test_what_a_removal_adds_never_falls_along_the_order_in_which_units_go() -> None:
    graph, errors = found(convolutions(), X)
    for cluster in graph.clusters:
        for family in cluster.families:
            assert (errors[graph.families[family].units] > 0).all()


def test_the_order_of_batches_changes_nothing() -> None:
    model = convolutions()
    graph = podar.trace(model, X[:1])
    batches = [X[:32], X[32:64], X[64:]]
    one = worth(graph, model, batches, unit_scores(graph)).errors
    other = worth(graph, model, batches[::-1], unit_scores(graph)).errors
    np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-12)


def test_little_memory_means_more_passes_and_the_same_errors() -> None:
    model = convolutions()
    _, once = found(model, X)
    _, often = found(model, X, memory=300_000)
    np.testing.assert_allclose(once, often, rtol=1e-6, atol=1e-12)


def test_a_group_that_memory_cannot_hold_keeps_its_plain_scores_and_says_so() -> None:
    model = convolutions()
    graph = podar.trace(model, X[:1])
    found = worth(graph, model, X, unit_scores(graph), memory=1)
    assert found.left and all("memory allows 1" in why for why in found.left.values())
    with pytest.raises(UsageError, match="memory"):
        worth(graph, model, X, unit_scores(graph), memory=0)


def test_what_no_linear_map_reads_is_named() -> None:
    class Computed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.out = nn.Linear(4, 8), nn.Linear(8, 3)
            self.factor = nn.Parameter(torch.ones(8))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(self.embed(x), self.out.weight * self.factor)

    model, x = Computed().eval(), inputs(16, 4)
    graph = podar.trace(model, x[:1])
    assert "embed" in worth(graph, model, x, unit_scores(graph)).left


def test_redundant_units_go_first_and_nothing_is_lost() -> None:
    dense, x = redundant(), inputs(256, 8)
    model = copy.deepcopy(dense)
    result = podar.prune(model, x[:1], ratios={"0": 0.3}, data=x)
    assert model.get_parameter("0.weight").shape == (5, 8)
    assert result.compensation is not None and not result.compensation.failed
    torch.testing.assert_close(model(x), dense(x), atol=2e-3, rtol=1e-2)


def test_inputs_alone_choose_by_reconstruction_and_compensate() -> None:
    dense = convolutions()
    model, plain = copy.deepcopy(dense), copy.deepcopy(dense)
    result = podar.prune(model, X[:1], "macs=0.5", data=X)
    assert result.compensation is not None and "linear maps solved anew" in str(result)
    podar.prune(plain, X[:1], "macs=0.5", data=X, compensate=False, importance="magnitude")
    wanted = dense(X)
    assert (model(X) - wanted).square().mean() < 0.5 * (plain(X) - wanted).square().mean()


def test_inputs_may_be_read_once_only() -> None:
    model = convolutions()
    result = podar.prune(model, X[:1], "macs=0.5", data=iter([X[:48], X[48:]]))
    assert result.compensation is not None and result.compensation.solved


def test_compensation_can_be_left_out_and_needs_inputs() -> None:
    result = podar.prune(convolutions(), X[:1], "macs=0.5", data=X, compensate=False)
    assert result.compensation is None
    with pytest.raises(UsageError, match="data="):
        podar.prune(convolutions(), X[:1], "macs=0.5", compensate=True)
    with pytest.raises(UsageError, match="data="):
        podar.prune(convolutions(), X[:1], "macs=0.5", importance="reconstruction")


@pytest.mark.parametrize(
    "bad",
    [X.index_fill(0, torch.tensor([3]), float("nan")), inputs(8, 3, 6, 6), [], X[:0]],
    ids=["NaN", "another shape", "no batches", "no samples"],
)
def test_bad_inputs_are_refused_and_the_model_stays(bad: object) -> None:
    model = convolutions()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PodarError):
        podar.prune(model, X[:1], "macs=0.5", data=bad)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.mark.parametrize("some", [X[:1], torch.ones(32, 2, 6, 6), X[:3]], ids=["one sample", "constant", "too few"])
def test_poor_inputs_do_no_harm(some: torch.Tensor) -> None:
    model = convolutions()
    result = podar.prune(model, X[:1], "macs=0.5", data=some)
    assert result.after.macs < result.before.macs
    assert model(X).isfinite().all()


@pytest.mark.parametrize("scope", ["error", "global", "local", "isomorphic"])
def test_every_scope_meets_the_target(scope: str) -> None:
    result = podar.prune(convolutions(), X[:1], "macs=0.5", data=X, scope=scope, multiple_of=1)
    assert abs(result.after.macs / result.before.macs - 0.5) <= 0.03
