"""podar sparsify and podar ticket: the run folder, its small checkpoint, the summary, and wrong usage."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from podar import recipes, runs
from podar.cli import app
from podar.reports import RunRecord
from podar.reports.page import render
from podar.sparse import load_sparse

NET = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 2))
"""


@pytest.fixture
def given(tmp_path: Path) -> list[str]:
    """A network and pictures that it can learn: whether the left half is brighter."""
    (tmp_path / "net.py").write_text(NET)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 200, (300, 8, 8), dtype=np.uint8)
    labels = rng.integers(0, 2, 300)
    images[labels == 1, :, :4] += 50
    np.savez(tmp_path / "d.npz", x_train=images[:240], y_train=labels[:240], x_test=images[240:], y_test=labels[240:])
    return [f"{tmp_path / 'net.py'}:make", "--data", str(tmp_path / "d.npz"), "--json"]


def podar(*arguments: str) -> dict[str, object]:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def carried_out(given: list[str], out: Path, *stages: dict[str, object]) -> dict[str, object]:
    """A recipe without measuring, which takes seconds."""
    recipe = recipes.make({"model": given[0], "data": given[2], "stages": list(stages)})
    return runs.start(recipe, out, command="test")


@pytest.mark.parametrize(
    "options",
    [{"reconstruct": True}, {"schedule": "cubic"}, {"schedule": "rigl"}, {"pattern": "2x1"}, {"scope": "erk"}],
    ids=str,
)
def test_sparsify_leaves_a_run(given: list[str], tmp_path: Path, options: dict[str, object]) -> None:
    out = tmp_path / "run"
    summary: dict = carried_out(given, out, {"sparsify": {"amount": 0.9, **options}}, {"finetune": {"epochs": 2}})
    assert summary["sparsity"]["fraction"] == pytest.approx(0.9, abs=0.002)
    assert summary["after"]["nonzero"] == summary["sparsity"]["weights"] - summary["sparsity"]["zeros"]
    assert summary["after"]["checkpoint_bytes"] <= summary["before"]["checkpoint_bytes"] / 5
    state = load_sparse(out / "model.sparse.safetensors")
    nonzero = sum(int(torch.count_nonzero(t)) for t in state.values() if t.dim() > 1)
    assert nonzero == summary["after"]["nonzero"]
    page = render(RunRecord.from_folder(out))
    assert "Zeros in every layer" in page and "Weights before and after" in page


def test_the_command_sparsifies_by_n_of_m_and_zeros_hold_through_training(given: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    podar("sparsify", *given, "--pattern", "2:4", "--epochs", "1", "--out", str(out))
    for name, tensor in load_sparse(out / "model.sparse.safetensors").items():
        if name.endswith("weight"):
            assert bool(((tensor.view(-1, 4) != 0).sum(1) <= 2).all())


def test_ticket_leaves_its_curve(given: list[str], tmp_path: Path) -> None:
    out = tmp_path / "run"
    options = ["--rounds", "2", "--seeds", "2", "--epochs", "2", "--control", "random", "--amount", "0.4"]
    summary: dict = podar("ticket", *given, *options, "--out", str(out))
    assert len(summary["tickets"]["points"]) == 2 * (3 + 2)
    assert summary["sparsity"]["fraction"] > 0.3
    curve = summary["tickets"]["curves"]["ticket"]
    assert [round(p["density"], 2) for p in curve] == [1.0, 0.6, 0.36]
    assert summary["before"]["accuracy"] == pytest.approx(
        next(p["accuracy"] for p in summary["tickets"]["points"] if p["round"] == 0)
    )
    assert "Lottery tickets" in render(RunRecord.from_folder(out))
    assert not (out / ".work").exists()


@pytest.mark.parametrize(
    ("command", "options", "words"),
    [
        ("sparsify", ["--amount", "1.5"], "amount"),
        ("sparsify", [], "amount"),
        ("sparsify", ["--amount", "0.9", "--pattern", "5:4"], "pattern"),
        ("sparsify", ["--amount", "0.9", "--scope", "globl"], "global"),
        ("sparsify", ["--amount", "0.9", "--importance", "magnitud"], "magnitude"),
        ("sparsify", ["--amount", "0.9", "--schedule", "cubc"], "cubic"),
        ("sparsify", ["--amount", "0.9", "--schedule", "cubic", "--epochs", "0"], "finetune"),
        ("sparsify", ["--amount", "0.9", "--schedule", "rigl", "--pattern", "4x1"], "rigl"),
        ("ticket", ["--amount", "2"], "amount"),
        ("ticket", ["--control", "randm"], "random"),
    ],
)
def test_wrong_usage_is_one_sentence_and_leaves_nothing(
    given: list[str], tmp_path: Path, command: str, options: list[str], words: str
) -> None:
    out = tmp_path / "run"
    result = CliRunner().invoke(app, [command, *given, *options, "--out", str(out)])
    assert result.exit_code == 2, result.output
    assert words in result.output and result.output.count("\n") == 1
    assert not out.exists()
