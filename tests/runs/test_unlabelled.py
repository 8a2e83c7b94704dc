"""Runs on pictures without labels: a compensated cut, compared with the dense model; training only where asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from podar.errors import UsageError
from podar.runs import recipe, running

NETWORK = """
import torch
from torch import nn

def classifier():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5),
    ).eval()

def filter_():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 2, 3))

def example_inputs():
    return torch.zeros(1, 1, 12, 12)
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    (folder / "net.py").write_text(NETWORK)
    (folder / "pictures").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (150, 12, 12), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(folder / "pictures" / f"{number:03d}.png")
    np.savez(folder / "pictures.npz", images=pixels)
    return folder


def summary(work: Path, out: Path, make: str, data: str, **finetune: Any) -> dict[str, Any]:
    stages = [{"prune": {"target": "macs=0.5", "multiple_of": 1}}, {"finetune": finetune}]
    planned = recipe.make({"model": f"{work / 'net.py'}:{make}", "data": str(work / data), "stages": stages})
    return running.start(planned, out, command="")


@pytest.mark.parametrize("data", ["pictures", "pictures.npz"])
def test_a_classifier_is_cut_compensated_and_compared(work: Path, tmp_path: Path, data: str) -> None:
    found = summary(work, tmp_path / "run", "classifier", data)
    assert found["compensation"]["solved"] and not found.get("history")
    assert found["before"]["agreement"] == 1 and found["before"]["output_error"] == 0
    assert 0.5 < found["after"]["agreement"] <= 1 and 0 < found["after"]["output_error"] < 0.5
    assert "accuracy" not in {*found["before"], *found["after"]}
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Same answers as dense" in page and "Output error" in page and "What the network sees" in page


def test_a_model_that_is_no_classifier_is_compared_by_its_outputs(work: Path, tmp_path: Path) -> None:
    found = summary(work, tmp_path / "run", "filter_", "pictures")
    assert 0 < found["after"]["output_error"] < 1
    assert not {"agreement", "accuracy"} & {*found["before"], *found["after"]}


def test_epochs_that_are_asked_for_learn_from_the_dense_model(work: Path, tmp_path: Path) -> None:
    found = summary(work, tmp_path / "run", "classifier", "pictures", epochs=2, batch_size=32)
    assert [epoch["epoch"] for epoch in found["history"]] == [1, 2]
    assert all("val_accuracy" not in epoch for epoch in found["history"])
    with pytest.raises(UsageError, match="has no labels, so the model can only learn from the unpruned one"):
        summary(work, tmp_path / "other", "classifier", "pictures", epochs=2, distill=False)
