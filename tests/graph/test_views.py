"""Operators that move indices: surgery computes what the mask computes, and what goes is what should."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

import podar
from tests.graph.oracle import difference

IMAGES = torch.zeros(2, 3, 6, 6)


class Net(nn.Module):
    """A convolution makes channels, `move` moves them, a linear layer reads what comes out."""

    def __init__(self, channels: int, move: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem, self.move = nn.Conv2d(3, channels, 3, padding=1), move
        with torch.no_grad():
            moved = self.read(self.stem(IMAGES))
        self.head = nn.Linear(moved.shape[1], 3)

    def read(self, x: Tensor) -> Tensor:
        return self.move(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.read(self.stem(x)))


MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x,
    "positions first": lambda x: x.permute(0, 2, 3, 1),
    "transpose twice": lambda x: x.transpose(1, 3).transpose(2, 3),
    "channels folded into the batch and back": lambda x: x.flatten(0, 1).view(x.shape),
    "stack and unbind": lambda x: torch.stack([x, x * 2], 1).unbind(1)[1],
    "concatenation with itself": lambda x: torch.cat([x, x.relu()], 1),
    "concatenation of positions": lambda x: torch.cat([x, x], 3),
    "padding of channels": lambda x: functional.pad(x, (0, 0, 0, 0, 2, 1)),
    "padding of positions": lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate"),
    "roll of positions": lambda x: x.roll((1, 2), (2, 3)),
    "flip of positions": lambda x: x.flip(3),
    "windows": lambda x: x.view(2, -1, 2, 3, 2, 3).permute(0, 2, 4, 3, 5, 1),
    "patches": lambda x: x.unfold(2, 3, 3).unfold(3, 3, 3),
    "expand": lambda x: x.unsqueeze(2).expand(-1, -1, 3, -1, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2),
    "one position": lambda x: x[:, :, 0, 1],
    "every other position": lambda x: x[:, :, ::2, 1::2],
    "a new axis in between": lambda x: x[:, :, None],
    "chunk and swap": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
    "copy into zeros": lambda x: torch.zeros_like(x).copy_(x),
    "index of positions": lambda x: x[:, :, torch.tensor([3, 1]), :],
}


@pytest.mark.parametrize("name", MOVES)
def test_channels_can_go_and_surgery_computes_what_the_mask_computes(name: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Net(8, MOVES[name])

    worst, result = difference(build, IMAGES, lambda m, x: podar.prune(m, x, "channels=0.5", scope="local"))
    assert worst <= 1e-6
    assert result.model.stem.out_channels == 4


@settings(max_examples=40, deadline=None)
@given(st.permutations([0, 1, 2, 3, 4]), st.sampled_from([(2, 4), (4, 2), (8, 1)]), st.integers(0, 5))
def test_any_way_of_splitting_permuting_and_merging(order: list[int], parts: tuple[int, int], seed: int) -> None:
    """Channels as a grid of two axes, permuted among batch and positions in any way, batch first again at the end."""
    back = order.index(0)

    def move(x: Tensor) -> Tensor:
        grid = x.unflatten(1, (parts[0], -1))
        return grid.permute(order).movedim(back, 0).reshape(2, -1)

    def build() -> nn.Module:
        torch.manual_seed(seed)
        return Net(8, move)

    worst, _ = difference(build, IMAGES, lambda m, x: podar.prune(m, x, "channels=0.5", scope="local"))
    assert worst <= 1e-6


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (lambda x: x.roll(1, 1), "indices change places"),
        (lambda x: x[:, torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])], "position"),
        (lambda x: x.view(2, 8, 36), "hard-coded size 8"),
        (lambda x: x.select(1, 3), "taken by position"),
    ],
)
def test_what_depends_on_a_position_is_frozen_with_its_reason(move: Callable[[Tensor], Tensor], reason: str) -> None:
    graph = podar.trace(Net(8, move), IMAGES)
    assert not graph.groups
    assert reason in {(n, d): why for n, d, why in graph.frozen}["stem.weight", 0]


def test_channels_that_a_slice_leaves_out_can_go_and_those_it_takes_by_a_literal_cannot() -> None:
    graph = podar.trace(Net(8, lambda x: x[:, :4]), IMAGES)
    assert [(g.name, g.size) for g in graph.groups] == [("stem[4:8]", 4)]
