"""The network that stages are tried on."""

from __future__ import annotations

from pathlib import Path

import pytest

NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )

def example_inputs():
    return torch.zeros(1, 1, 12, 12)
"""


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """net.py, whose `make` builds a small classifier of three classes."""
    path = tmp_path / "net.py"
    path.write_text(NETWORK)
    return path
