"""The sparse engine as one of the runtimes: beside torch where zeros are many, and on program files."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import podar
from podar.errors import PodarError
from podar.measuring.every_runtime import side_by_side
from podar.runtimes import RUNTIMES, open_in, readers

pytest.importorskip("podar_native", reason="podar-native is not built here")

pytestmark = pytest.mark.usefixtures("cache")


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


def test_memory_is_measured_too() -> None:
    (_, line) = side_by_side([network(0.8)], torch.randn(1, 3, 12, 12), seconds=0.05)
    assert line.measured is not None and line.measured.latency_ms["runtime"].startswith("podar-native")
    assert (line.measured.memory_bytes or 0) > 10**6, line.measured.missing


def test_without_the_native_package_the_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "podar_native", None)
    torch_line, line = side_by_side([network(0.8)], torch.randn(1, 3, 12, 12), seconds=0.05, memory=False)
    assert torch_line.measured is not None and line.measured is None
    assert 'pip install "podar[sparse]"' in str(line.reason)


def test_inputs_made_by_a_callable_leave_the_line_empty() -> None:
    _, line = side_by_side([network(0.8)], lambda model: model(torch.ones(1, 3, 12, 12)), seconds=0.05, memory=False)
    assert "give a tensor" in str(line.reason)


def test_an_accelerated_model_can_be_measured() -> None:
    x = torch.randn(1, 3, 12, 12)
    fast = podar.accelerate(network(0.8), x, measure=False, tune=False)
    assert not any(part.training for part in fast.modules())
    assert podar.measure(fast, x, seconds=0.05, memory=False).latency_ms["p50"] > 0


def test_a_program_file(tmp_path: Path) -> None:
    x = torch.randn(2, 3, 12, 12)
    podar.accelerate(network(0.8), x, measure=False, tune=False).save(tmp_path / "m.podar")
    opened = open_in(None, tmp_path / "m.podar", x, 1)
    assert opened.version.startswith("podar-native") and opened.run()[0].shape == (2, 16)
    assert 0 < (RUNTIMES["podar"].weights(tmp_path / "m.podar") or 0) < 700
    with pytest.raises(PodarError, match="does not fit"):
        open_in(None, tmp_path / "m.podar", torch.randn(2, 3, 12, 13), 1)
    (tmp_path / "broken.podar").write_bytes(b"broken")
    with pytest.raises(PodarError, match="sparse engine cannot open"):
        open_in(None, tmp_path / "broken.podar", x, 1)
