"""Shapes change, channels still go; what is written as a number stays, with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from podar.errors import PodarError
from tests.graph.moving import half_of, why_frozen

MOVES: dict[str, Callable[[Tensor], Tensor]] = {
    "flatten": lambda x: x,
    "positions first": lambda x: x.permute(0, 2, 3, 1),
    "transpose twice": lambda x: x.transpose(1, 3).transpose(2, 3),
    "channels folded into the batch and back": lambda x: x.flatten(0, 1).view(x.shape),
    "windows": lambda x: x.view(2, -1, 2, 3, 2, 3).permute(0, 2, 4, 3, 5, 1),
    "expand": lambda x: x.unsqueeze(2).expand(-1, -1, 3, -1, -1),
    "repeat": lambda x: x.repeat(1, 2, 1, 1),
    "squeeze": lambda x: x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2),
    "a new axis in between": lambda x: x[:, :, None],
}


@pytest.mark.parametrize("name", MOVES)
def test_channels_can_go_and_surgery_computes_what_the_mask_computes(name: str) -> None:
    worst, left = half_of(MOVES[name])
    assert worst <= 1e-6
    assert left == 4


@settings(max_examples=40, deadline=None)
@given(st.permutations([0, 1, 2, 3, 4]), st.sampled_from([(2, 4), (4, 2), (8, 1)]), st.integers(0, 5))
def test_any_way_of_splitting_permuting_and_merging(order: list[int], parts: tuple[int, int], seed: int) -> None:
    """Channels as a grid of two axes, permuted among batch and positions in any way, batch first again at the end."""
    back = order.index(0)

    def move(x: Tensor) -> Tensor:
        grid = x.unflatten(1, (parts[0], -1))
        return grid.permute(order).movedim(back, 0).reshape(2, -1)

    try:
        worst, _ = half_of(move, seed)
    except PodarError as error:  # where the grid reaches another axis in pieces
        assert "nothing of this model can be cut" in str(error) and "frozen" in str(error)
        return
    assert worst <= 1e-6


@pytest.mark.parametrize(("move", "reason"), [(lambda x: x.view(2, 8, 36), "hard-coded size 8")])
def test_what_depends_on_a_position_is_frozen_with_its_reason(move: Callable[[Tensor], Tensor], reason: str) -> None:
    assert reason in why_frozen(move)
