"""The sparse engine as one of the runtimes: beside torch where zeros are many, and on program files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import podar
from podar.errors import PodarError
from podar.measuring.every_runtime import side_by_side
from podar.measuring.runtimes import open_in, readers

pytest.importorskip("podar_native", reason="podar-native is not built here")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODAR_CACHE", str(tmp_path / "cache"))


def network(amount: float) -> nn.Module:
    layers = nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    model = nn.Sequential(*layers).eval()
    if amount:
        podar.sparsify(model, amount)
        podar.bake(model)
    return model


def test_only_sparse_models_are_given_to_it() -> None:
    assert [r.name for r in readers(network(0.0))] == ["torch"]
    assert [r.name for r in readers(network(0.8))] == ["torch", "podar"]


def test_measured_beside_torch() -> None:
    lines = side_by_side([network(0.8)], torch.randn(1, 3, 12, 12), seconds=0.1, memory=False)
    assert [line.runtime for line in lines] == ["torch", "podar"]
    assert all(line.measured is not None for line in lines)


def test_a_program_file(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    podar.accelerate(network(0.8), x, measure=False, tune=False).save(tmp_path / "m.podar")
    opened = open_in(None, tmp_path / "m.podar", x, 1)
    assert opened.runtime.startswith("podar-native") and opened.run()[0].shape == (2, 16)
    assert 0 < (opened.params() or 0) < 700
    with pytest.raises(PodarError, match="does not fit"):
        open_in(None, tmp_path / "m.podar", torch.randn(2, 3, 12, 13), 1)
    (tmp_path / "broken.podar").write_bytes(b"broken")
    with pytest.raises(PodarError, match="not a program"):
        open_in(None, tmp_path / "broken.podar", x, 1)
