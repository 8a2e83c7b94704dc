"""The stage quantize: a command of its own, a flag of podar prune, a key of the summary, and a part of the report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from podar import cli
from podar.errors import UsageError
from podar.runs import recipe, steps
from podar.stages.quantize import _of_the_size


@pytest.fixture
def given(network: Path, tmp_path: Path) -> list[str]:
    """MODEL and DATA on a command line."""
    random = np.random.default_rng(0)
    labels = np.arange(90) % 3
    images = random.integers(0, 120, (90, 12, 12), dtype=np.uint8) + 60 * labels[:, None, None].astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    return [f"{network}:make", "--data", str(tmp_path / "data.npz")]


def test_the_command_writes_a_run(given: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(cli.app, ["quantize", *given, "--budget", "error<=0.9", "--out", str(out)])
    assert result.exit_code == 0, result.output
    summary = json.loads((out / "summary.json").read_text())
    found = summary["quantize"]
    assert (out / found["path"]).is_file() and found["encoding"] in {row["encoding"] for row in found["table"]}
    assert found["latency_ms"] > 0 and "accuracy" in found
    assert summary["after"]["bytes"] == (out / found["path"]).stat().st_size
    assert summary["after"]["accuracy"] is not None
    assert "In 8 bits" in (out / "report.html").read_text()
    assert "U8U8" in result.output


def test_a_flag_of_prune_multiplies(given: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = ["prune", *given, "--target", "macs=0.6", "--epochs", "0", "--out", str(out)]
    result = CliRunner().invoke(cli.app, [*asked, "--quantize", "onnxruntime", "--budget", "error<=0.9"])
    assert result.exit_code == 0, result.output
    found = json.loads((out / "summary.json").read_text())["quantize"]
    assert set(found["beside"]) == {"dense fp32"} and found["beside"]["dense fp32"] > 0


def test_prune_quantises_only_where_it_is_asked_for() -> None:
    plain = recipe.make({"model": "demo", "data": "digits", "stages": [{"prune": {"target": "macs=0.5"}}]})
    assert "quantize" not in [step.name for step in steps.steps(plain)]


def test_unknown_names_are_refused_before_anything_is_loaded() -> None:
    for options, said in (({"runtime": "onxruntime"}, "onnxruntime"), ({"budget": "size<=3"}, "budget")):
        asked = recipe.make({"model": "demo", "data": "digits", "stages": [{"quantize": options}]})
        with pytest.raises(UsageError, match=said):
            steps.check_options(asked)


def test_images_lose_the_border_that_a_loader_put_around_them() -> None:
    image = torch.randn(2, 3, 32, 48)
    bordered = torch.nn.functional.pad(image, (16, 16, 8, 8))
    (found,) = _of_the_size([(bordered, None)], torch.zeros(1, 3, 32, 48))
    assert torch.equal(found, image)
    (small,) = _of_the_size([(image[:, :, ::2], None)], torch.zeros(1, 3, 32, 48))
    assert small.shape == image.shape


def test_it_needs_data_and_stands_at_the_end() -> None:
    with pytest.raises(UsageError, match="data set"):
        recipe.make({"model": "demo", "stages": ["quantize"]})
    with pytest.raises(UsageError, match="move it to the end"):
        recipe.make({"model": "demo", "data": "digits", "stages": ["quantize", {"prune": {"target": "macs=0.5"}}]})
