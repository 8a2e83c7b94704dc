"""podar sparsify and podar ticket: the run folder, its small checkpoint, the summary, and wrong usage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from podar.cli import app
from podar.recover import training
from podar.recover.precision import Precision
from podar.reports import RunRecord
from podar.reports.page import render
from podar.runs import recipe as recipes
from podar.runs import running
from podar.sparse import load_sparse
from podar.stages import sections

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
    return running.start(recipe, out, command="test")


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
    page = render(RunRecord.from_folder(out), sections())
    assert "Zeros in every layer" in page and "Weights before and after" in page


def test_zeros_hold_when_a_sparse_run_is_pruned_or_trained_again(given: list[str], tmp_path: Path) -> None:
    sparse, pruned = tmp_path / "sparse", tmp_path / "pruned"
    carried_out(given, sparse, {"sparsify": {"amount": 0.8, "scope": "local"}}, {"finetune": {"epochs": 1}})
    stages = [{"prune": {"target": "macs=0.5"}}, {"finetune": {"epochs": 1}}]
    recipe = recipes.make({"model": str(sparse), "data": given[2], "stages": stages})
    summary = running.start(recipe, pruned, command="test", trust=True)
    state = load_file(pruned / "model.safetensors")
    zeros = sum(int((t == 0).sum()) for t in state.values() if t.dim() > 1)
    assert zeros > 0.5 * sum(t.numel() for t in state.values() if t.dim() > 1)
    assert any("were zero already" in note for note in summary["notes"])


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
    assert "Lottery tickets" in render(RunRecord.from_folder(out), sections())
    assert not (out / ".work").exists()


def killed(arguments: list[str], out: Path, when: Callable[[], bool]) -> None:
    """Start a command and kill it with signal 9 as soon as `when`."""
    process = subprocess.Popen(
        [sys.executable, "-m", "podar", *arguments, "--out", str(out)], stdout=subprocess.DEVNULL
    )
    try:
        until = time.monotonic() + 120
        while not when():
            assert process.poll() is None and time.monotonic() < until, "it ended before it could be killed"
            time.sleep(0.005)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert not (out / "summary.json").exists()


def same_weights(one: Path, other: Path) -> bool:
    first, second = (load_sparse(folder / "model.sparse.safetensors") for folder in (one, other))
    return all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_a_killed_ticket_search_is_resumed_and_ends_like_one_that_was_not(given: list[str], tmp_path: Path) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    options = ["--rounds", "3", "--seeds", "2", "--epochs", "3", "--control", "random", "--rewind", "2"]
    points = out / ".work" / "tickets" / "tickets.json"

    def finished() -> list[dict[str, object]]:
        return json.loads(points.read_text())["points"] if points.exists() else []

    killed(["ticket", *given, *options], out, lambda: len(finished()) >= 2)
    known = finished()
    assert 2 <= len(known) < 2 * (4 + 3)
    summary: dict = podar("resume", str(out), "--trust", "--json")
    asked = {"rounds": 3, "seeds": 2, "epochs": 3, "controls": ["random"], "rewind": 2}
    reference: dict = carried_out(given, whole, {"ticket": asked})
    assert summary["tickets"]["points"][: len(known)] == known  # to the second that they took: not trained again

    def told(found: dict) -> list[dict[str, object]]:
        return [{k: v for k, v in p.items() if k != "seconds"} for p in found["tickets"]["points"]]

    assert told(summary) == told(reference) and same_weights(out, whole)


def test_a_killed_sparsify_is_resumed_and_ends_like_one_that_was_not(
    given: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, whole = tmp_path / "killed", tmp_path / "whole"
    options = ["--amount", "0.8", "--epochs", "30", "--schedule", "rigl"]  # whose masks are the hardest to find again
    killed(["sparsify", *given, *options], out, (out / ".work" / "fine-tune.checkpoint").exists)
    before = torch.load(out / ".work" / "fine-tune.checkpoint", weights_only=True)
    assert 1 <= len(before["epochs"]) < 30
    resumed: dict = podar("resume", str(out), "--trust", "--json")
    # Which precision is fastest may differ from one minute to the next: what was begun stays as it was.
    monkeypatch.setattr(training, "fastest_precision", lambda *_: Precision.parse(before["precision"]))
    asked = [{"sparsify": {"amount": 0.8, "schedule": "rigl"}}, {"finetune": {"epochs": 30}}]
    reference: dict = carried_out(given, whole, *asked)
    assert resumed["history"][: len(before["epochs"])] == before["epochs"]
    assert resumed["sparsity"]["zeros"] == reference["sparsity"]["zeros"] and same_weights(out, whole)


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
    assert words in result.stderr and result.stderr.count("\n") == 1
    assert words in json.loads(result.stdout)["error"]["message"]
    assert not out.exists()
