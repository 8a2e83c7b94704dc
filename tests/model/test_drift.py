"""How far outputs moved: nothing for equal models, all of their size where nothing is left."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from podar.model.drift import moved

INPUT = torch.ones(2, 3)


def test_the_distance_over_the_size() -> None:
    dense = nn.Sequential(nn.Linear(3, 4), nn.Dropout(0.5)).train()
    cut = copy.deepcopy(dense)
    assert moved(dense, cut, INPUT) == 0
    for p in cut.parameters():
        p.data.mul_(0.75)
    assert moved(dense, cut, INPUT) == pytest.approx(0.25)
    for p in cut.parameters():
        p.data.zero_()
    assert moved(dense, cut, INPUT) == pytest.approx(1)
    assert dense.training and cut.training


def test_outputs_that_cannot_be_compared_do_not_count() -> None:
    class Two(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.features, self.head = nn.Linear(3, width), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"features": self.features(x), "out": self.head(x), "best": self.head(x).argmax(1)}

    torch.manual_seed(0)
    dense, cut = Two(4), Two(2)
    cut.head.load_state_dict(dense.head.state_dict())
    assert moved(dense, cut, INPUT) == 0
    with torch.no_grad():
        dense.head.bias.fill_(torch.inf)
    assert moved(dense, cut, INPUT) is None
