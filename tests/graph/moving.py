"""A network around one movement of its activations, pruned and compared with its mask."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

import podar
from tests.graph.oracle import halved

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


def half_of(move: Callable[[Tensor], Tensor], seed: int = 0) -> tuple[float, int]:
    """How far surgery is from the mask at half of the channels, and how many are left."""

    def build() -> nn.Module:
        torch.manual_seed(seed)
        return Net(8, move)

    worst, result = halved(build, IMAGES)
    return worst, result.model.stem.out_channels


def why_frozen(move: Callable[[Tensor], Tensor]) -> str:
    """The reason that no channel can go."""
    graph = podar.trace(Net(8, move), IMAGES)
    assert not graph.groups
    return {(n, d): why for n, d, why in graph.frozen}["stem.weight", 0]
