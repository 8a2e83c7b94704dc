"""sparsify: the exact count whatever the scores, no layer emptied without a word, the same weights as by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import podar
from podar.sparse.layers import weights_of


class Everything(nn.Module):
    """One layer of each kind that can be sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.conv = nn.Embedding(20, 8), nn.Conv1d(8, 16, 3, padding=1)
        self.up, self.depth = nn.ConvTranspose1d(16, 8, 3, padding=1), nn.Conv1d(8, 8, 3, groups=8, padding=1)
        self.lstm, self.gru = nn.LSTM(8, 8, 2, batch_first=True), nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.attention, self.last = nn.MultiheadAttention(16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.depth(self.up(self.conv(self.words(x).mT).relu()).relu()).mT
        y = self.gru(self.lstm(y)[0])[0]
        return self.last(self.attention(y, y, y, need_weights=False)[0]).mean(1)


def everything() -> nn.Module:
    torch.manual_seed(0)
    return Everything().eval()


WORDS = torch.randint(0, 20, (16, 12), generator=torch.Generator().manual_seed(0))
BATCHES = [(WORDS, WORDS.sum(1) % 4)]


def uneven(seed: int, spread: float) -> Any:
    """A criterion whose layers differ by orders of magnitude."""

    def score(model: nn.Module, data: Any, loss: Any) -> dict[str, Tensor]:
        generator = torch.Generator().manual_seed(seed)
        sizes = torch.randn(100, generator=generator) * spread
        return {
            n: torch.rand(p.shape, generator=generator) * 10.0 ** float(sizes[k % 100])
            for k, (n, p) in enumerate(model.named_parameters())
        }

    return score


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 1000), spread=st.floats(0, 8), amount=st.floats(0.05, 0.98))
def test_whatever_the_scores_the_count_is_exact_and_every_layer_keeps_a_weight(
    seed: int, spread: float, amount: float
) -> None:
    model = everything()
    found = podar.sparsify(model, amount, importance=uneven(seed, spread))
    assert found.zeros == round(amount * found.weights)
    assert all(layer.zeros < layer.weights for layer in found.layers)
    assert bool(torch.isfinite(model(WORDS)).all())


def test_a_layer_left_with_next_to_nothing_is_named() -> None:
    def unfair(model: nn.Module, data: Any, loss: Any) -> dict[str, Tensor]:
        return {n: torch.rand_like(p) + 5 * (n != "2.weight") for n, p in model.named_parameters()}

    def network() -> nn.Module:
        return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))

    found = podar.sparsify(network(), 0.8, importance=unfair)
    assert found["2.weight"].zeros == 1023
    assert "2.weight keeps 1 of 1,024 weights" in found.starved and str(found).endswith(found.starved)
    assert "\n" not in found.starved and "0.weight" not in found.starved
    assert not podar.sparsify(network(), 0.8).starved
    assert not podar.sparsify(network(), 0.8, importance=unfair, scope="local").starved


def test_wanda_ranks_layers_together_whatever_the_size_of_their_inputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 8))
    with torch.no_grad():
        model.get_parameter("0.weight").mul_(1e-3)  # what the second layer reads is a thousandth of what the first does
        model.get_parameter("1.weight").mul_(1e3)
    found = podar.sparsify(model, 0.7, importance="wanda", data=torch.randn(64, 16))
    assert found.zeros == round(0.7 * found.weights)
    plain = nn.Sequential(nn.Linear(16, 64), nn.Linear(64, 64), nn.Linear(64, 8))
    even = podar.sparsify(plain, 0.7, importance="wanda", data=100 * torch.randn(64, 16))
    assert not even.starved and all(0.3 < layer.fraction < 0.95 for layer in even.layers)


CRITERIA = ["magnitude", "lamp", "snip", "grasp", "synflow", "taylor", "fisher", "wanda", "random"]
SCOPES = ["local", "uniform", "er", "erk", "sensitivity"]


@pytest.mark.parametrize(("name", "scope"), [(n, "global") for n in CRITERIA] + [("taylor", s) for s in SCOPES])
def test_every_criterion_and_scope_on_every_kind_of_layer(name: str, scope: str) -> None:
    model = everything()
    before = {w.name: w.values.clone() for w in weights_of(model)}
    found = podar.sparsify(model, 0.6, importance=name, scope=scope, data=BATCHES)
    assert found.zeros == pytest.approx(0.6 * found.weights, abs=len(found.layers))
    podar.bake(model)
    for weight in weights_of(model):
        kept = weight.values != 0
        assert torch.equal(weight.values[kept], before[weight.name][kept])
    assert bool(torch.isfinite(model(WORDS)).all())


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 1000), amounts=st.lists(st.floats(0.05, 0.9), min_size=2, max_size=3))
def test_continuing_never_brings_a_weight_back(seed: int, amounts: list[float]) -> None:
    model, gone = everything(), None
    for amount in sorted(amounts):
        podar.sparsify(model, amount, importance=uneven(seed, 2))
        zeros = {w.name: w.values == 0 for w in weights_of(model)}
        assert gone is None or all(bool((gone[n] <= zeros[n]).all()) for n in zeros)
        gone = zeros
    assert podar.sparsity(model).fraction == pytest.approx(max(amounts), abs=1e-3)
