"""Whole blocks with inputs at hand: chosen by what the answers lose, and made up for by what stays."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError


class Block(nn.Module):
    def __init__(self, width: int, scale: float) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, 32), nn.Linear(32, width)
        with torch.no_grad():
            self.down.weight.mul_(scale)
            self.down.bias.mul_(scale)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(torch.tanh(self.up(self.norm(x))))


def blocks_of(model: nn.Module) -> list[Block]:
    return [m for m in model.modules() if isinstance(m, Block)]


class Stack(nn.Module):
    """Six blocks of which the two that do least have the largest weights, where nothing reads them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(8, 16)
        self.blocks = nn.Sequential(*(Block(16, s) for s in (4.0, 4.0, 0.01, 4.0, 0.01, 4.0)))
        self.head = nn.Linear(16, 4)
        with torch.no_grad():
            for k in (2, 4):
                blocks_of(self)[k].up.weight.mul_(40)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.embed(x)))


def inputs(seed: int) -> Tensor:
    return torch.randn(256, 8, generator=torch.Generator().manual_seed(seed))


X, NEW = inputs(1), inputs(2)


def off(model: nn.Module, dense: nn.Module) -> float:
    with torch.no_grad():
        return float((model(NEW) - dense(NEW)).square().mean() / dense(NEW).var())


def test_blocks_that_do_nothing_go_whatever_their_weights_are() -> None:
    dense = Stack().eval()
    model, plain = copy.deepcopy(dense), copy.deepcopy(dense)
    result = podar.prune(model, X[:1], "params=0.66", data=X, depth=True)
    assert set(result.blocks) == {"blocks.2", "blocks.4"}
    by_weights = podar.prune(plain, X[:1], "params=0.66", depth=True)
    assert not {"blocks.2", "blocks.4"} & set(by_weights.blocks)
    assert off(model, dense) < 0.05 * off(plain, dense)


def test_blocks_stay_where_channels_are_missed_less() -> None:
    dense = Stack().eval()
    with torch.no_grad():
        for k, block in enumerate(blocks_of(dense)):
            block.up.weight[4:].zero_()
            block.down.weight.mul_(100 if k in (2, 4) else 1)
    model = copy.deepcopy(dense)
    result = podar.prune(model, X[:1], "params=0.5", data=X, depth=True, multiple_of=1)
    assert result.blocks == ()
    assert abs(result.after.params / result.before.params - 0.5) <= 0.03


def test_what_a_dropped_block_did_is_put_into_what_follows() -> None:
    dense = Stack().eval()
    dropped = copy.deepcopy(dense)
    result = podar.prune(dropped, X[:1], "params=0.66", depth=True)
    assert result.blocks
    bare = off(dropped, dense)
    podar.compensate(dropped, dense, X)
    assert off(dropped, dense) < 0.5 * bare


def test_a_share_of_the_blocks_goes_by_what_is_missed_least() -> None:
    model = Stack().eval()
    result = podar.prune(model, X[:1], "channels=0.6", data=X, depth=True)
    assert set(result.blocks) == {"blocks.2", "blocks.4"}


def test_groups_with_plain_scores_are_named_with_depth_too() -> None:
    class Computed(Stack):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(nn.functional.linear(self.one(x), self.two.weight * 2))

    result = podar.prune(Computed().eval(), X[:1], "params=0.66", data=X, depth=True)
    assert result.compensation is not None and result.blocks
    assert "one" in result.compensation.unmeasured


def test_the_model_stays_where_the_target_cannot_be_met() -> None:
    model = Stack().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PodarError, match="cannot be reached"):
        podar.prune(model, X[:1], "params=0.001", data=X, depth=True)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert len(blocks_of(model)) == 6
