"""Channels go where whole tensors are written; what is written at positions of channels stays, with its reason."""

from __future__ import annotations

import torch
from torch import Tensor

from tests.graph.moving import half_of, why_frozen


def copied_into_zeros(x: Tensor) -> Tensor:
    return torch.zeros_like(x).copy_(x)


def added_at_rows(x: Tensor) -> Tensor:
    return x.index_add(2, torch.tensor([0, 2]), x[:, :, :2])


def added_at_channels(x: Tensor) -> Tensor:
    return x.index_add(1, torch.tensor([0, 2]), x[:, :2])


def test_channels_can_go_and_surgery_computes_what_the_mask_computes() -> None:
    for move in (copied_into_zeros, added_at_rows):
        worst, left = half_of(move)
        assert worst <= 1e-6
        assert left == 4


def test_channels_that_are_written_by_position_stay() -> None:
    assert "written by position" in why_frozen(added_at_channels)
