"""Permuted channels: the network computes the same, and N:M keeps more of its weights."""

from __future__ import annotations

import copy
import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.sparse.patterns import NofM
from podar.sparse.permutation import kept, search


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 20), st.integers(2, 6), st.sampled_from([(2, 4), (1, 4), (1, 2), (4, 8)]), st.integers(0, 99))
def test_the_search_permutes_and_never_loses(rows: int, stripes: int, pattern: tuple[int, int], seed: int) -> None:
    scores = torch.rand(rows, stripes * pattern[1], generator=torch.Generator().manual_seed(seed))
    order = search(scores, NofM(*pattern))
    assert sorted(order.tolist()) == list(range(scores.shape[1]))
    assert kept(scores[:, order], NofM(*pattern)) >= kept(scores, NofM(*pattern)) * (1 - 1e-6)


def test_two_stripes_are_shared_out_in_the_best_way_there_is() -> None:
    scores = torch.rand(30, 8, generator=torch.Generator().manual_seed(1))
    every = (
        kept(scores[:, [*first, *(k for k in range(8) if k not in first)]], NofM(2, 4))
        for first in itertools.combinations(range(8), 4)
    )
    assert kept(scores[:, search(scores, NofM(2, 4))], NofM(2, 4)) == pytest.approx(max(every))


class Block(nn.Module):
    """A residual block with a depthwise convolution, then a linear layer on flattened planes."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.norm = norm
        self.wide = nn.Conv2d(16, 32, 1)
        self.depth = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.narrow = nn.Conv2d(32, 16, 1)
        self.fc = nn.Linear(16 * 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.stem(x))
        x = x + self.narrow(torch.relu(self.depth(self.wide(x))))
        return self.fc(x.flatten(1))


@pytest.mark.parametrize("norm", [nn.BatchNorm2d(16), nn.GroupNorm(4, 16)], ids=["batch", "group"])
def test_the_network_computes_the_same_and_the_pattern_keeps_more(norm: nn.Module) -> None:
    torch.manual_seed(0)
    model, x = Block(copy.deepcopy(norm)), torch.randn(3, 3, 4, 4)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.running_mean = torch.rand(16)
            torch.nn.init.uniform_(m.weight)
    plain = copy.deepcopy(model).eval()
    permuted = podar.sparse.permute(model, x[:1], "2:4")
    assert {p.name for p in permuted} >= {"wide"} and all(p.kept_after > p.kept_before for p in permuted)
    assert torch.allclose(model.eval()(x), plain(x), atol=1e-5)
    for one in (plain, model):
        podar.sparsify(one, pattern="2:4", protect=["stem", "depth", "fc"])
        podar.bake(one)

    def left(one: nn.Module) -> float:
        return sum(float(one.get_parameter(f"{n}.weight").detach().abs().sum()) for n in ("wide", "narrow"))

    assert left(model) > left(plain)


def test_only_n_of_m_and_only_before_masks() -> None:
    model, x = Block(nn.BatchNorm2d(16)), torch.randn(1, 3, 4, 4)
    with pytest.raises(UsageError, match="order of channels"):
        podar.sparse.permute(model, x, "4x1")
    podar.sparsify(model, 0.5)
    with pytest.raises(PodarError, match="masked already"):
        podar.sparse.permute(model, x)
