"""Runs: whole or not at all, resumed where they stopped, and never over another run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from podar import recipes, runs, stages
from podar.errors import PodarError, UsageError

NETWORK = """
import torch
from torch import nn

def make():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 3),
    )

def example_inputs():
    return torch.zeros(1, 1, 12, 12)
"""
FILES = {"model.safetensors", "plan.json", "source.json", "summary.json", "report.html", "model.onnx", "dense.onnx"}


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A tiny network of the user's own."""
    path = tmp_path / "network.py"
    path.write_text(NETWORK)
    return f"{path}:make"


CUT = [{"prune": {"target": "macs=0.6", "multiple_of": 1}}]


def recipe(model: str, **change: Any) -> recipes.Recipe:
    """Cut, export, measure briefly."""
    plain = {
        "model": model,
        "stages": [
            *CUT,
            {"export": {"formats": ["onnx"]}},
            {"measure": {"seconds": 0.05}},
        ],
    }
    return recipes.make({**plain, **change})


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_a_run_leaves_the_whole_folder_and_nothing_else(model: str, tmp_path: Path) -> None:
    out = tmp_path / "runs" / "x"
    seen: list[str] = []
    summary = runs.start(recipe(model), out, command="podar prune …", progress=lambda stage, *_: seen.append(stage))
    assert listing(out) == FILES
    assert json.loads((out / "summary.json").read_text()) == summary
    assert summary["command"] == "podar prune …"
    assert list(dict.fromkeys(s for s in seen if s)) == [
        "load",
        "evaluate dense",
        "prune",
        "evaluate",
        "export",
        "measure",
        "report",
    ]
    before, after = summary["before"], summary["after"]
    assert before.keys() == after.keys()
    assert {"params", "macs", "bytes", "memory_bytes", "latency_ms"} <= before.keys()
    assert before["latency_ms"].keys() == {"p50", "p95", "runtime", "threads"}
    assert before["bytes"] == (out / "dense.onnx").stat().st_size
    assert after["bytes"] == (out / "model.onnx").stat().st_size
    assert abs(after["macs"] / before["macs"] - 0.6) <= 0.03
    assert summary["exports"]["onnx"]["parity"] <= 1e-4
    assert [layer["before"] for layer in summary["layers"]] == [8, 16]


def test_the_saved_folder_is_the_model_that_was_exported(model: str, tmp_path: Path) -> None:
    import onnxruntime

    from podar.sources import open_source

    runs.start(recipe(model), tmp_path / "x", command="")
    loaded = open_source(str(tmp_path / "x"), trust=True).build()
    summary = runs.summary(tmp_path / "x")
    assert sum(p.numel() for p in loaded.parameters()) == summary["after"]["params"]
    inputs = torch.randn(1, 1, 12, 12)
    session = onnxruntime.InferenceSession(str(tmp_path / "x" / "model.onnx"), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: inputs.numpy()})
    torch.testing.assert_close(loaded(inputs).detach(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("taken", ["summary.json", "model.safetensors", "plan.json"])
def test_a_folder_that_holds_a_run_is_left_alone(model: str, tmp_path: Path, taken: str) -> None:
    out = tmp_path / "x"
    out.mkdir()
    (out / taken).write_text("mine")
    with pytest.raises(PodarError, match=r"x already holds a run .*--out"):
        runs.start(recipe(model), out, command="")
    assert listing(out) == {taken} and (out / taken).read_text() == "mine"


def test_files_that_are_no_run_stay_beside_it(model: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    runs.start(recipe(model, stages=CUT), out, command="")
    assert (
        listing(out) == FILES - {"model.onnx", "dense.onnx"} | {"notes.txt"}
        and (out / "notes.txt").read_text() == "mine"
    )


def test_a_file_in_the_place_of_the_folder_is_said(model: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(PodarError, match=r"x is a file: name a folder"):
        runs.start(recipe(model), tmp_path / "x", command="")


def test_only_a_run_of_the_same_recipe_is_replaced(model: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    runs.start(recipe(model, stages=CUT, name="demo"), out, command="first")
    (out / "old.txt").write_text("")
    runs.start(recipe(model, stages=CUT, name="demo"), out, command="second", replace=True)
    assert runs.summary(out)["command"] == "second"
    with pytest.raises(PodarError, match="already holds a run"):
        runs.start(recipe(model, stages=CUT, name="other"), out, command="third", replace=True)
    assert runs.summary(out)["command"] == "second"


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": "gone.py:make"}, PodarError, "there is no file gone.py"),
        ({"weights": "gone.safetensors"}, PodarError, "there is no weights file gone.safetensors"),
        ({"stages": [{"prune": {"target": "macs=half"}}]}, UsageError, "'half' is not a number"),
        ({"stages": [{"prune": {"target": "macs=0"}}]}, UsageError, "between 0 and 1"),
        ({"stages": [{"prune": {"target": "macs=1"}}]}, UsageError, "nothing to do"),
        ({"stages": [{"prune": {"target": "macs=0.5", "scope": "globl"}}]}, UsageError, "did you mean global"),
        (
            {"stages": [{"prune": {"target": "macs=0.5", "importance": "magnitud"}}]},
            UsageError,
            "did you mean magnitude",
        ),
        ({"stages": [{"prune": {"target": "macs=0.5", "ratios": {"0": 1.5}}}]}, UsageError, "ratio 0=1.5"),
        ({"stages": [{"prune": {"target": "macs=0.5", "ratios": {"gone": 0.5}}}]}, UsageError, "'gone'"),
        ({"stages": [{"prune": {"target": "macs=0.5", "protect": ["gone"]}}]}, UsageError, "'gone'"),
        ({"stages": [{"prune": {"target": "macs=0.5", "protect": ["0", "3"]}}]}, PodarError, "cannot be reached"),
        ({"stages": [{"export": {"formats": ["onx"]}}]}, UsageError, "did you mean onnx"),
    ],
)
def test_bad_input_leaves_nothing_behind(
    model: str, tmp_path: Path, change: dict[str, Any], error, message: str
) -> None:
    with pytest.raises(error, match=message) as caught:
        runs.start(recipe(**{"model": model, **change}), tmp_path / "runs" / "x", command="")
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


STEPS = ["evaluate dense", "prune", "evaluate", "export", "measure"]


def _broken_off(error: type[BaseException], at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one step fail, before it does anything."""
    real = stages.steps

    def failing(job: stages.Job) -> dict[str, Any]:
        raise error(f"in {at}")

    def steps(recipe: recipes.Recipe) -> list[stages.Step]:
        return [stages.Step(s.name, failing, s.changes_model) if s.name == at else s for s in real(recipe)]

    monkeypatch.setattr(stages, "steps", steps)


@pytest.mark.parametrize("at", STEPS)
def test_an_interrupted_run_is_resumed_where_it_was(model, tmp_path: Path, monkeypatch, at: str) -> None:
    out, planned, left = tmp_path / "x", recipe(model), FILES
    if at in STEPS[:3]:  # exporting takes long, and is looked at by the others
        planned, left = recipe(model, stages=CUT), FILES - {"model.onnx", "dense.onnx"}
    steps = [step.name for step in stages.steps(planned)]
    with monkeypatch.context() as patched:
        _broken_off(KeyboardInterrupt, at, patched)
        with pytest.raises(PodarError, match=rf"interrupted in the stage '{at}': podar resume .*x goes on"):
            runs.start(planned, out, command="the command")
    assert not FILES & {path.name for path in out.iterdir()}, "nothing half-written"
    with pytest.raises(PodarError, match=r"broken off: podar resume .*x goes on with it"):
        runs.start(recipe(model), out, command="")
    with pytest.raises(PodarError, match="is not finished: podar resume"):
        runs.summary(out)

    again: list[str] = []
    summary = runs.resume(out, progress=lambda stage, *_: again.append(stage))
    assert list(dict.fromkeys(s for s in again if s))[1:-1] == steps[steps.index(at) :], (
        "finished steps are not repeated"
    )
    assert listing(out) == left
    assert summary["command"] == "the command"
    assert abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.6) <= 0.03
    with pytest.raises(PodarError, match="is finished: there is nothing to resume"):
        runs.resume(out)


def test_interrupted_while_publishing_it_still_becomes_whole(model, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "x"
    real, moved = os.replace, []

    def replace(source: Any, target: Any) -> None:
        if Path(target).parent == out:
            if moved:
                raise KeyboardInterrupt
            moved.append(target)
        real(source, target)

    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", replace)
        with pytest.raises(PodarError, match="interrupted in the stage 'report'"):
            runs.start(recipe(model, stages=CUT), out, command="")
    assert not (out / "summary.json").exists()
    assert runs.resume(out)["before"] and listing(out) == FILES - {"model.onnx", "dense.onnx"}


def test_a_failure_without_training_leaves_nothing(model, tmp_path: Path, monkeypatch) -> None:
    _broken_off(RuntimeError, "export", monkeypatch)
    with pytest.raises(RuntimeError, match="in export"):
        runs.start(recipe(model), tmp_path / "x", command="")
    assert not (tmp_path / "x").exists()


def test_resuming_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(PodarError, match="holds no run that was broken off"):
        runs.resume(tmp_path)
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "state.json").write_text("{")
    with pytest.raises(PodarError, match=r"state.json is damaged"):
        runs.resume(tmp_path)


def test_two_processes_do_not_share_a_run(model, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "x"
    with monkeypatch.context() as patched:
        _broken_off(KeyboardInterrupt, "prune", patched)
        with pytest.raises(PodarError, match="interrupted"):
            runs.start(recipe(model, stages=CUT, name="demo"), out, command="")
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print('locked', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".work")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    try:
        for attempt in (
            lambda: runs.resume(out),
            lambda: runs.start(recipe(model, stages=CUT, name="demo"), out, command="", replace=True),
        ):
            with pytest.raises(PodarError, match="another podar is at work"):
                attempt()
    finally:
        other.communicate("\n")
    assert runs.resume(out)["after"]


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a thing of Unix")
def test_a_full_disk_is_one_sentence_and_leaves_nothing(model, tmp_path: Path) -> None:
    # In a process of its own: the limit would hold for what pytest itself writes, too.
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000)); "
        "from podar.cli import main; main()"
    )
    arguments = ["prune", str(recipe(model).model), "--target", "macs=0.5", "--out", str(tmp_path / "x")]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert "cannot write" in said and "File too large" in said and "Traceback" not in said
    assert not (tmp_path / "x").exists()


def test_a_folder_that_cannot_be_made_is_said(model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PodarError, match=r"cannot make the folder .*: Not a directory"):
        runs.start(recipe(model), tmp_path / "file" / "x", command="")


def test_the_default_folder_is_the_next_free_one(model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert runs.free_folder(recipe("timm:resnet18")) == Path("runs/resnet18")
    Path("runs/resnet18").mkdir(parents=True)
    assert runs.free_folder(recipe("timm:resnet18")) == Path("runs/resnet18-2")
    assert runs.free_folder(recipe(model)) == Path("runs/make")
    assert runs.free_folder(recipe("nets/yolo26n.yaml")) == Path("runs/yolo26n")


def test_a_model_cut_twice_keeps_its_first_widths(model, tmp_path: Path) -> None:
    two = [{"prune": {"target": "macs=0.7", "multiple_of": 1}}, {"prune": {"target": "macs=0.7", "multiple_of": 1}}]
    summary = runs.start(recipe(model, stages=two), tmp_path / "x", command="")
    assert [layer["before"] for layer in summary["layers"]] == [8, 16]
    assert list(summary["stages"]) == ["load", "evaluate dense", "prune", "prune 2", "evaluate"]
    assert abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.49) <= 0.06
    assert listing(tmp_path / "x") == FILES - {"model.onnx", "dense.onnx"}


def test_what_widths_did_not_allow_is_said(model, tmp_path: Path) -> None:
    few = [{"prune": {"target": "macs=0.01", "multiple_of": 1}}]
    notes = runs.start(recipe(model, stages=few), tmp_path / "x", command="")["notes"]
    assert any(
        note.startswith("Target macs=0.01: the nearest that this model's widths allow is 0.015 ") for note in notes
    )
    half = [{"prune": {"target": "macs=0.5", "multiple_of": 1}}]
    notes = runs.start(recipe(model, stages=half), tmp_path / "y", command="")["notes"]
    assert not any("widths" in note for note in notes)


def test_merging_goes_into_mappings_and_replaces_the_rest() -> None:
    parts = [{"a": {"x": 1, "y": [1]}, "b": 1}, {"a": {"y": [2], "z": 3}}, {"b": {"c": 1}}]
    assert runs.merged(parts) == {"a": {"x": 1, "y": [2], "z": 3}, "b": {"c": 1}}
    assert parts[0] == {"a": {"x": 1, "y": [1]}, "b": 1}, "the parts stay as they were"
