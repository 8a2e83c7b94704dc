"""What every test gets: one thread, a fixed seed, and no way out to the network by accident."""

from __future__ import annotations

import os

# Before torch is imported: OpenMP threads that spin slow a shared machine a hundredfold.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["PODAR_STRICT"] = "1"  # a defect in the rule of an operator is raised, where users get a frozen axis
os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1", YOLO_OFFLINE="1", YOLO_AUTOINSTALL="false")

import pytest
import torch


@pytest.fixture(autouse=True)
def seed() -> None:
    """Random weights are the same ones in every run and in every order of the tests."""
    torch.manual_seed(0)
