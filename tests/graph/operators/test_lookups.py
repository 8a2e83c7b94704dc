"""Channels go where positions move or are looked up; where channels themselves are, they stay, with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.graph.moving import half_of, why_frozen

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "roll of positions": lambda x: x.roll((1, 2), (2, 3)),
    "flip of positions": lambda x: x.flip(3),
    "patches": lambda x: x.unfold(2, 3, 3).unfold(3, 3, 3),
    "index of positions": lambda x: x[:, :, torch.tensor([3, 1]), :],
}


@pytest.mark.parametrize("name", MOVES)
def test_channels_can_go_and_surgery_computes_what_the_mask_computes(name: str) -> None:
    worst, left = half_of(MOVES[name])
    assert worst <= 1e-6
    assert left == 4


@pytest.mark.parametrize(
    ("move", "reason"),
    [
        (lambda x: x.roll(1, 1), "indices change places"),
        (lambda x: x[:, torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])], "position"),
    ],
)
def test_what_depends_on_a_position_is_frozen_with_its_reason(move: Callable[[Tensor], Tensor], reason: str) -> None:
    assert reason in why_frozen(move)
