"""Channels go through joins, slices and splits; what a position chooses stays, with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import podar
from tests.graph.moving import IMAGES, Net, half_of, why_frozen

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "stack and unbind": lambda x: torch.stack([x, x * 2], 1).unbind(1)[1],
    "concatenation with itself": lambda x: torch.cat([x, x.relu()], 1),
    "concatenation of positions": lambda x: torch.cat([x, x], 3),
    "padding of channels": lambda x: functional.pad(x, (0, 0, 0, 0, 2, 1)),
    "padding of positions": lambda x: functional.pad(x, (1, 1, 1, 1), mode="replicate"),
    "one position": lambda x: x[:, :, 0, 1],
    "every other position": lambda x: x[:, :, ::2, 1::2],
    "chunk and swap": lambda x: torch.cat(x.chunk(2, 1)[::-1], 1),
}


@pytest.mark.parametrize("name", MOVES)
def test_channels_can_go_and_surgery_computes_what_the_mask_computes(name: str) -> None:
    worst, left = half_of(MOVES[name])
    assert worst <= 1e-6
    assert left == 4


@pytest.mark.parametrize(("move", "reason"), [(lambda x: x.select(1, 3), "taken by position")])
def test_what_depends_on_a_position_is_frozen_with_its_reason(move: Callable[[Tensor], Tensor], reason: str) -> None:
    assert reason in why_frozen(move)


def test_channels_that_a_slice_leaves_out_can_go_and_those_it_takes_by_a_literal_cannot() -> None:
    graph = podar.trace(Net(8, lambda x: x[:, :4]), IMAGES)
    assert [(g.name, g.size) for g in graph.groups] == [("stem[4:8]", 4)]
