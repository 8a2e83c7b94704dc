"""What every test gets: one thread, a fixed seed, and no way out to the network by accident."""

from __future__ import annotations

import os

# Before torch is imported: OpenMP threads that spin slow a shared machine a hundredfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PODAR_STRICT"] = "1"  # a defect in the rule of an operator is raised, where users get a frozen axis
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false")

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

CLASSIFIER = """
import torch
from torch import nn

def make(classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, classes),
    )

def small():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def seven():
    return make(7)

def example_inputs():
    return torch.zeros(1, 1, 12, 12)
"""


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random weights are the same ones in every run and in every order of the tests."""
    torch.manual_seed(0)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the sparse engine remembers of earlier searches starts empty, and the user's own is left alone."""
    monkeypatch.setenv("PODAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sparse() -> nn.Module:
    """A small network of which four weights in five are zero."""
    import podar

    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    podar.sparsify(model.eval(), 0.8)
    return podar.bake(model)


@pytest.fixture
def user_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with networks (net.py) and labelled pictures (data.npz); podar stands in it."""
    (tmp_path / "net.py").write_text(CLASSIFIER)
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 60, (60, 12, 12), dtype=np.uint8)
    images[labels == 1, :6] += 150
    images[labels == 2, 6:] += 150
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    monkeypatch.chdir(tmp_path)
    return tmp_path
