"""A small network with known labels, and the data that it was, as it were, trained on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

Batches = list[tuple[Tensor, Tensor]]


@pytest.fixture
def net() -> nn.Module:
    """Two convolutions with a norm between them, and a linear layer."""
    torch.manual_seed(1)
    layers = [
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ]  # fmt: skip
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for _ in range(3):
            model(torch.randn(32, 3, 12, 12))  # the norm's statistics
    return model.eval()


@pytest.fixture
def batches(net: nn.Module) -> Batches:
    """Inputs that differ among each other in their means, labelled by the network itself."""
    found: Batches = []
    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randn(32, 3, 12, 12, generator=generator) + 2 * torch.randn(32, 3, 1, 1, generator=generator)
        with torch.no_grad():
            found.append((images, net(images).argmax(1)))
    return found
