"""Runs: whole or not at all, resumed where they stopped, and never over another run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from podar.errors import PodarError, UsageError
from podar.runs import recipe as recipes
from podar.runs import running, steps
from podar.stages import Finding, Job, StageOptions

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
    summary = running.start(recipe(model), out, command="podar prune …", progress=lambda stage, *_: seen.append(stage))
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

    from podar.sources.opening import open_source

    running.start(recipe(model), tmp_path / "x", command="")
    loaded = open_source(str(tmp_path / "x"), trust=True).build()
    summary = running.summary(tmp_path / "x")
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
        running.start(recipe(model), out, command="")
    assert listing(out) == {taken} and (out / taken).read_text() == "mine"


def test_files_that_are_no_run_stay_beside_it(model: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    running.start(recipe(model, stages=CUT), out, command="")
    assert (
        listing(out) == FILES - {"model.onnx", "dense.onnx"} | {"notes.txt"}
        and (out / "notes.txt").read_text() == "mine"
    )


def test_a_file_in_the_place_of_the_folder_is_said(model: str, tmp_path: Path) -> None:
    (tmp_path / "x").write_text("mine")
    with pytest.raises(PodarError, match=r"x is a file: name a folder"):
        running.start(recipe(model), tmp_path / "x", command="")


def test_only_a_run_of_the_same_recipe_is_replaced(model: str, tmp_path: Path) -> None:
    out = tmp_path / "x"
    running.start(recipe(model, stages=CUT, name="demo"), out, command="first")
    (out / "old.txt").write_text("")
    running.start(recipe(model, stages=CUT, name="demo"), out, command="second", replace=True)
    assert running.summary(out)["command"] == "second"
    with pytest.raises(PodarError, match="already holds a run"):
        running.start(recipe(model, stages=CUT, name="other"), out, command="third", replace=True)
    assert running.summary(out)["command"] == "second"


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
        ({"stages": [{"prune": {"target": "macs=0.5", "ratios": {"0": 1.5}}}]}, UsageError, r"ratios\['0'\] is 1.5"),
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
        running.start(recipe(**{"model": model, **change}), tmp_path / "runs" / "x", command="")
    assert type(caught.value) is error
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


STEPS = ["evaluate dense", "prune", "evaluate", "export", "measure"]


def _broken_off(error: type[BaseException], at: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make one step fail, before it does anything."""
    real = steps.steps

    def failing(job: Job, options: StageOptions) -> Finding:
        raise error(f"in {at}")

    def broken(recipe: recipes.Recipe) -> list[steps.RunStep]:
        return [replace(s, stage=replace(s.stage, work=failing)) if s.name == at else s for s in real(recipe)]

    monkeypatch.setattr(steps, "steps", broken)


@pytest.mark.parametrize("at", STEPS)
def test_an_interrupted_run_is_resumed_where_it_was(model, tmp_path: Path, monkeypatch, at: str) -> None:
    out, planned, left = tmp_path / "x", recipe(model), FILES
    if at in STEPS[:3]:  # exporting takes long, and is looked at by the others
        planned, left = recipe(model, stages=CUT), FILES - {"model.onnx", "dense.onnx"}
    named = [step.name for step in steps.steps(planned)]
    with monkeypatch.context() as patched:
        _broken_off(KeyboardInterrupt, at, patched)
        with pytest.raises(PodarError, match=rf"interrupted in the stage '{at}': podar resume .*x --trust goes on"):
            running.start(planned, out, command="the command")
    assert not FILES & {path.name for path in out.iterdir()}, "nothing half-written"
    with pytest.raises(PodarError, match=r"broken off: podar resume .*x goes on with it"):
        running.start(recipe(model), out, command="")
    with pytest.raises(PodarError, match="is not finished: podar resume"):
        running.summary(out)

    again: list[str] = []
    summary = running.resume(out, progress=lambda stage, *_: again.append(stage), trust=True)
    assert list(dict.fromkeys(s for s in again if s))[1:-1] == named[named.index(at) :], (
        "finished steps are not repeated"
    )
    assert listing(out) == left
    assert summary["command"] == "the command"
    assert abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.6) <= 0.03
    with pytest.raises(PodarError, match="is finished: there is nothing to resume"):
        running.resume(out, trust=True)


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
            running.start(recipe(model, stages=CUT), out, command="")
    assert not (out / "summary.json").exists()
    assert running.resume(out, trust=True)["before"] and listing(out) == FILES - {"model.onnx", "dense.onnx"}


def test_a_failure_without_training_leaves_nothing(model, tmp_path: Path, monkeypatch) -> None:
    _broken_off(RuntimeError, "export", monkeypatch)
    with pytest.raises(RuntimeError, match="in export"):
        running.start(recipe(model), tmp_path / "x", command="")
    assert not (tmp_path / "x").exists()


def test_resuming_what_is_no_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(PodarError, match="holds no run that was broken off"):
        running.resume(tmp_path, trust=True)
    (tmp_path / ".work").mkdir()
    (tmp_path / ".work" / "state.json").write_text("{")
    with pytest.raises(PodarError, match=r"state.json is damaged"):
        running.resume(tmp_path, trust=True)


def test_two_processes_do_not_share_a_run(model, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "x"
    with monkeypatch.context() as patched:
        _broken_off(KeyboardInterrupt, "prune", patched)
        with pytest.raises(PodarError, match="interrupted"):
            running.start(recipe(model, stages=CUT, name="demo"), out, command="")
    code = "import fcntl, os, sys; fcntl.flock(os.open(sys.argv[1], 0), 2); print('locked', flush=True); input()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out / ".work")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert other.stdout is not None
    assert other.stdout.readline() == "locked\n"
    try:
        for attempt in (
            lambda: running.resume(out, trust=True),
            lambda: running.start(recipe(model, stages=CUT, name="demo"), out, command="", replace=True),
        ):
            with pytest.raises(PodarError, match="another podar is at work"):
                attempt()
    finally:
        other.communicate("\n")
    assert running.resume(out, trust=True)["after"]


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


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Sixty labelled pictures that the network can tell apart."""
    labels = np.arange(60) % 3
    images = np.random.default_rng(0).integers(0, 60, (60, 12, 12), dtype=np.uint8)
    images[labels == 1, :6] += 150
    images[labels == 2, 6:] += 150
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    return str(tmp_path / "data.npz")


TRAINED = [*CUT, {"finetune": {"epochs": 3, "batch_size": 16}}]


def _in_epoch(number: int, error: BaseException) -> Any:
    def progress(stage: str, done: int, total: int, info: dict[str, float]) -> None:
        if info.get("epoch") == number:
            raise error

    return progress


def test_a_failed_resume_removes_nothing(model, data, tmp_path: Path, monkeypatch) -> None:
    out = tmp_path / "x"
    monkeypatch.chdir(tmp_path)
    planned = recipe("network.py:make", data="data.npz", stages=TRAINED, deterministic=True)
    with pytest.raises(PodarError, match="interrupted in the stage 'fine-tune'"):
        running.start(planned, "x", command="", progress=_in_epoch(2, KeyboardInterrupt()))
    begun = {path: (out / path).read_bytes() for path in listing(out)}
    monkeypatch.chdir("/")  # paths as they were typed lead nowhere from here
    os.rename(data, data + ".away")
    with pytest.raises(PodarError, match=r"data\.npz is no longer there.*--despite-changes goes on"):
        running.resume(out, trust=True)
    with pytest.raises(PodarError, match=r"what was trained is kept: podar resume .*x --trust goes on"):
        running.resume(out, despite_changes=True, trust=True)  # which cannot do without the file
    os.rename(data + ".away", data)
    for error in (RuntimeError("boom"), PodarError("boom."), MemoryError(), SystemExit(1)):
        with pytest.raises(type(error)):
            running.resume(out, progress=_in_epoch(2, error), despite_changes=True, trust=True)
        assert begun.keys() <= listing(out), error
    summary = running.resume(out, trust=True)
    monkeypatch.chdir(tmp_path)
    whole = running.start(planned, tmp_path / "whole", command="")
    assert (out / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert summary["recipe"]["model"] == "network.py:make" == summary["facts"]["model"]
    assert summary["facts"] == whole["facts"] and summary["title"] == whole["title"]
    assert [epoch["epoch"] for epoch in summary["history"]] == [1, 2, 3]
    assert sum("changed" in n or "no longer" in n for n in summary["notes"]) == 1, "it says that it went on despite"


@pytest.mark.parametrize("error", [RuntimeError("boom"), PodarError("boom."), OSError(28, os.strerror(28))])
def test_a_start_that_fails_keeps_any_checkpoint(model, data, tmp_path: Path, error: Exception) -> None:
    planned = recipe(model, data=data, stages=TRAINED, deterministic=True)
    with pytest.raises(type(error) if not isinstance(error, OSError) else PodarError) as caught:
        running.start(planned, tmp_path / "x", command="", progress=_in_epoch(2, error))
    if isinstance(caught.value, PodarError):
        assert re.search(r"what was trained is kept: podar resume \S+ --trust goes on from there\.$", str(caught.value))
    assert [epoch["epoch"] for epoch in running.resume(tmp_path / "x", trust=True)["history"]] == [1, 2, 3]


def _edit_data(folder: Path) -> None:
    with np.load(folder / "data.npz") as kept:
        images, labels = kept["images"], kept["labels"].copy()
    labels[0] = 1
    np.savez(folder / "data.npz", images=images, labels=labels)


def _edit_code(folder: Path) -> None:
    (folder / "network.py").write_text(NETWORK.replace("nn.ReLU()", "nn.SiLU()"))


def _edit_helper(folder: Path) -> None:
    (folder / "beside_network.py").write_text("WIDTH = 9\n")


def _edit_weights(folder: Path) -> None:
    kept = load_file(folder / "w.safetensors")
    save_file({name: tensor + 0.01 for name, tensor in kept.items()}, folder / "w.safetensors")


@pytest.mark.parametrize("edit", [_edit_data, _edit_code, _edit_helper, _edit_weights])
def test_what_changed_while_a_run_was_broken_off_is_noticed(model, data, tmp_path: Path, edit) -> None:
    (tmp_path / "beside_network.py").write_text("WIDTH = 8\n")
    (tmp_path / "network.py").write_text("import beside_network\n" + NETWORK)
    namespace: dict[str, Any] = {}
    exec(NETWORK, namespace)
    save_file(namespace["make"]().state_dict(), tmp_path / "w.safetensors")
    out = tmp_path / "x"
    planned = recipe(model, data=data, weights=str(tmp_path / "w.safetensors"), stages=TRAINED)
    with pytest.raises(PodarError, match="interrupted"):
        running.start(planned, out, command="", progress=_in_epoch(2, KeyboardInterrupt()))
    sys.modules.pop("beside_network", None)
    edit(tmp_path)
    before = listing(out)
    with pytest.raises(PodarError, match=r"changed since the run in .*x was broken off: .*--despite-changes goes on"):
        running.resume(out, trust=True)
    assert listing(out) == before
    notes = running.resume(out, despite_changes=True, trust=True)["notes"]
    assert any("changed while the run was broken off" in note for note in notes)


def test_the_second_of_two_processes_is_told_of_the_first(model, tmp_path: Path) -> None:
    out, said = tmp_path / "x", []

    def look(stage: str, *_: Any) -> None:
        if stage == "prune" and not said:
            for attempt in (
                lambda: running.start(recipe(model, stages=CUT), out, command=""),
                lambda: running.resume(out, trust=True),
            ):
                with pytest.raises(PodarError) as caught:
                    attempt()
                said.append(str(caught.value))

    running.start(recipe(model, stages=CUT), out, command="", progress=look)
    assert len(said) == 2 and all("another podar is at work in" in sentence for sentence in said)


def test_a_hidden_folder_without_a_state_is_no_run(model, tmp_path: Path) -> None:
    out = tmp_path / "x"
    (out / ".work" / "files").mkdir(parents=True)
    (out / ".work" / ".state.json.part").mkdir()
    with pytest.raises(PodarError, match=r"had not begun; start it again"):
        running.resume(out, trust=True)
    running.start(recipe(model, stages=CUT), out, command="")
    assert listing(out) == FILES - {"model.onnx", "dense.onnx"}
    (tmp_path / "y" / ".work" / "thesis").mkdir(parents=True)
    with pytest.raises(PodarError, match=r"holds thesis, which is not podar's"):
        running.start(recipe(model, stages=CUT), tmp_path / "y", command="")
    assert (tmp_path / "y" / ".work" / "thesis").is_dir()


def test_only_files_of_the_run_are_published(model, tmp_path: Path) -> None:
    out = tmp_path / "x"

    def litter(stage: str, *_: Any) -> None:
        for name in (".model.onnx.1234.part", "weights.tmp") if stage == "measure" else ():
            (out / ".work" / "files" / name).write_text("left by a killed process")
        if stage == "measure":
            raise KeyboardInterrupt

    with pytest.raises(PodarError, match="interrupted"):
        running.start(recipe(model), out, command="", progress=litter)
    running.resume(out, trust=True)
    assert listing(out) == FILES


def test_two_trainings_of_one_recipe_keep_their_places_apart(model, data, tmp_path: Path) -> None:
    again = [*TRAINED, {"finetune": {"epochs": 3, "batch_size": 16}}]
    summary = running.start(recipe(model, data=data, stages=again), tmp_path / "x", command="")
    assert [epoch["epoch"] for epoch in summary["history"]] == [1, 2, 3, 4, 5, 6]
    assert len({epoch["loss"] for epoch in summary["history"]}) == 6


def test_the_precision_is_chosen_once(model, data, tmp_path: Path, monkeypatch) -> None:
    from podar.recover import training
    from podar.recover.precision import Precision

    monkeypatch.setattr(training, "fastest_precision", lambda *_: Precision(bf16=True))
    planned = recipe(model, data=data, stages=TRAINED)
    for error in (KeyboardInterrupt(), KeyboardInterrupt()):
        verb = (
            partial(running.resume, trust=True)
            if (tmp_path / "x").exists()
            else partial(running.start, planned, command="")
        )
        with pytest.raises(PodarError, match="interrupted"):
            verb(out=tmp_path / "x", progress=_in_epoch(1, error))
        monkeypatch.setattr(training, "fastest_precision", lambda *_: pytest.fail("timed again"))
    assert running.resume(tmp_path / "x", trust=True)["precision"] == "bf16"
    for change in ({"deterministic": True}, {"stages": [*CUT, {"finetune": {"epochs": 1, "precision": "fp32"}}]}):
        name = next(iter(change))
        assert (
            running.start(recipe(model, **{"data": data, "stages": TRAINED, **change}), tmp_path / name, command="")[
                "precision"
            ]
            == "fp32"
        )


def test_a_folder_that_cannot_be_made_is_said(model, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PodarError, match=r"cannot make the folder .*: Not a directory"):
        running.start(recipe(model), tmp_path / "file" / "x", command="")


def test_the_default_folder_is_the_next_free_one(model, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert running.free_folder(recipe("timm:resnet18")) == Path("runs/resnet18")
    Path("runs/resnet18").mkdir(parents=True)
    assert running.free_folder(recipe("timm:resnet18")) == Path("runs/resnet18-2")
    assert running.free_folder(recipe(model)) == Path("runs/make")
    assert running.free_folder(recipe("nets/yolo26n.yaml")) == Path("runs/yolo26n")


def test_a_model_cut_twice_keeps_its_first_widths(model, tmp_path: Path) -> None:
    two = [{"prune": {"target": "macs=0.7", "multiple_of": 1}}, {"prune": {"target": "macs=0.7", "multiple_of": 1}}]
    summary = running.start(recipe(model, stages=two), tmp_path / "x", command="")
    assert [layer["before"] for layer in summary["layers"]] == [8, 16]
    assert list(summary["stages"]) == ["load", "evaluate dense", "prune", "prune 2", "evaluate"]
    assert abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.49) <= 0.06
    assert listing(tmp_path / "x") == FILES - {"model.onnx", "dense.onnx"}


def test_what_widths_did_not_allow_is_said(model, tmp_path: Path) -> None:
    few = [{"prune": {"target": "macs=0.0125", "multiple_of": 1}}]
    notes = running.start(recipe(model, stages=few), tmp_path / "x", command="")["notes"]
    assert any(
        note.startswith("Target macs=0.0125: the nearest that this model's widths allow is 0.015 ") for note in notes
    )
    half = [{"prune": {"target": "macs=0.5", "multiple_of": 1}}]
    notes = running.start(recipe(model, stages=half), tmp_path / "y", command="")["notes"]
    assert not any("widths" in note for note in notes)


def test_a_cut_without_training_says_so_and_how_far_the_outputs_moved(model, tmp_path: Path) -> None:
    summary = running.start(recipe(model, stages=CUT), tmp_path / "x", command="")
    found = [re.search(r"^Nothing was fine-tuned .* moved by ([0-9.]+) % of their size", n) for n in summary["notes"]]
    shares = [float(match[1]) for match in found if match]
    assert len(shares) == 1 and shares[0] == pytest.approx(100 * summary["outputs_moved"], rel=0.01)
    assert 0 < summary["outputs_moved"] < 10


def test_ratios_alone_cut_their_part(model, tmp_path: Path) -> None:
    stages = [{"prune": {"ratios": {"0": 0.5}}}]
    summary = running.start(recipe(model, stages=stages), tmp_path / "x", command="")
    assert [(layer["before"], layer["after"]) for layer in summary["layers"]] == [(8, 4), (16, 16)]
    assert summary["target"] == "0=0.5"


def test_merging_goes_into_mappings_and_replaces_the_rest() -> None:
    parts = [{"a": {"x": 1, "y": [1]}, "b": 1}, {"a": {"y": [2], "z": 3}}, {"b": {"c": 1}}]
    assert steps.merged(parts) == {"a": {"x": 1, "y": [2], "z": 3}, "b": {"c": 1}}
    assert parts[0] == {"a": {"x": 1, "y": [1]}, "b": 1}, "the parts stay as they were"


def test_code_runs_again_only_with_consent(model: str, tmp_path: Path) -> None:
    out = tmp_path / "x"

    def stop(stage: str, *_: Any) -> None:
        if stage == "evaluate":
            raise KeyboardInterrupt

    with pytest.raises(PodarError, match="interrupted in the stage 'evaluate'"):
        running.start(recipe(model, stages=CUT), out, command="", progress=stop)
    state = (out / ".work" / "state.json").read_bytes()
    with pytest.raises(PodarError, match=r"state\.json names .*network\.py:make, .* runs a file: add --trust"):
        running.resume(out)
    assert (out / ".work" / "state.json").read_bytes() == state
    assert running.resume(out, trust=True)["after"]
