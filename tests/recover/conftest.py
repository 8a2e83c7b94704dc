"""Pictures that a tiny network learns in a second: bright left half or bright right half, with noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from podar.data import Dataset, Split
from podar.data.pictures.pixels import Held

COUNT, SHAPE = 256, (1, 8, 8)


def _split(seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 2, (COUNT,), generator=generator)
    images = torch.rand(COUNT, *SHAPE, generator=generator)
    images[:, :, :, :4] += (labels == 0).view(-1, 1, 1, 1).float()
    images[:, :, :, 4:] += (labels == 1).view(-1, 1, 1, 1).float()
    return Split(Held(images), torch.arange(COUNT), labels, SHAPE, (1.0,), (0.6,), flip=False)


@pytest.fixture
def data() -> Dataset:
    """256 training and 256 test pictures of two classes."""
    return Dataset("halves", _split(1), _split(2), ("left", "right"), SHAPE, (1.0,), (0.6,))


class Tiny(nn.Module):
    """Convolution, batch norm and dropout: everything whose state a checkpoint must hold."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4)
        self.drop, self.fc = nn.Dropout(0.2), nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [N, classes]."""
        return self.fc(self.drop(torch.relu(self.norm(self.conv(x))).flatten(1)))


@pytest.fixture
def model() -> Tiny:
    """Always of the same weights."""
    torch.manual_seed(0)
    return Tiny()
