"""The command line: what it prints, what it writes, and one clear sentence for every input that makes no sense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from podar import cli

NETWORK = """
import torch
from torch import nn

def make(num_classes=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes),
    )

def diverged():
    model = make()
    nn.init.constant_(model[3].bias, float("nan"))
    return model

def endless():
    model = make()
    model[3].weight.data[0] = float("inf")
    return model

def crooked():
    return nn.Sequential(nn.Linear(7, 5), nn.Linear(5, 2))

def example_inputs():
    return torch.zeros(1, 1, 12, 12)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a network and labelled pictures; podar stands in it."""
    (tmp_path / "net.py").write_text(NETWORK)
    drawn = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = drawn.integers(0, 60, (60, 12, 12), dtype=np.uint8)
    images[labels == 1, :6] += 150
    images[labels == 2, 6:] += 150
    np.savez(tmp_path / "data.npz", images=images, labels=labels)
    np.savez(tmp_path / "one.npz", images=images, labels=np.zeros(60, np.int64))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def podar(*args: str) -> int:
    """Runs the command in this process; returns its exit code."""
    return cli.app(list(args), standalone_mode=False, prog_name="podar") or 0


def contents(folder: Path) -> dict[str, bytes]:
    kept = (p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in kept}


CUT = ("prune", "net.py:make", "--target", "macs=0.6", "--multiple-of", "1")


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("inspect", "missing.py:make"), 1, "missing.py"),
        (("inspect", "net.py:maek"), 1, "did you mean net.py:make?"),
        (("inspect", "timm:resnet81"), 1, "did you mean timm:resnet18?"),
        (("inspect", "resnet81"), 1, "resnet18?"),
        (("inspect", "net.py:diverged"), 1, "NaN"),
        (("inspect", "net.py:endless"), 1, "infinite"),
        (("inspect", "net.py:crooked"), 1, "12"),
        ((*CUT, "--weights", "none.safetensors"), 1, "none.safetensors"),
        ((*CUT, "--data", "fashion-mnst"), 1, "did you mean fashion-mnist?"),
        ((*CUT, "--data", "nowhere/"), 1, "nowhere"),
        ((*CUT, "--data", "one.npz"), 1, "one class"),
        ((*CUT, "--data", "digits"), 1, "10 classes and net.py:make has 3 outputs: add --model-arg num_classes=10"),
        (("prune", "net.py:make", "--target", "0"), 2, "macs=0.5"),
        (("prune", "net.py:make", "--target", "macs=0"), 2, "between 0 and 1"),
        (("prune", "net.py:make", "--target", "macs=1.5"), 2, "between 0 and 1"),
        (("prune", "net.py:make", "--target", "half"), 2, "macs=0.5"),
        (("prune", "net.py:make", "--target", "macs=half"), 2, "half"),
        (("prune", "net.py:make", "--target", "macs=1"), 2, "nothing to do"),
        (("prune", "net.py:make", "--target", "macs=0.5", "--protect", "*"), 1, "the nearest is"),
        ((*CUT, "--export", "onx"), 2, "did you mean onnx?"),
        ((*CUT, "--importance", "magnitud"), 2, "did you mean magnitude?"),
        ((*CUT, "--ratios", "nonsense"), 2, "layer=fraction"),
        (("prune", "net.py:make"), 2, "target is missing"),
        (("prune", "net.py:make", "--ratios", "0=0.5", "--depth"), 2, "depth weighs whole blocks"),
        (("prune", "net.py:make", "--target", "macs=0.5", "--multiple-of", "0"), 2, "at least 1, or auto"),
        (("prune", "net.py:make", "--target", "macs=0.5", "--multiple-of", "many"), 2, "multiple_of is 'many'"),
        ((*CUT, "--only", "nothing"), 2, "only names 'nothing', which no layer matches"),
        ((*CUT, "--outputs", "logits"), 1, "outputs names 'logits', but the model returns"),
        (("prune", "net.py:make", "--target", "macs=0.0001"), 1, "podar inspect MODEL"),
        ((*CUT, "--model-arg", "num_classes"), 2, "num_classes=10"),
        ((*CUT, "--no-such-option"), 2, "--no-such-option"),
        (("run", "none.yaml"), 1, "none.yaml"),
        (("resume", "nothing"), 1, "nothing"),
        (("report", "nothing"), 1, "nothing"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else None,
)
def test_bad_input_is_one_sentence_and_leaves_everything_as_it_was(
    folder: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, said: str
) -> None:
    before = contents(folder)
    assert podar(*args) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    line = shown.err.strip().splitlines()[-1]  # lines above it tell which stages are done
    assert line.startswith("Error: ") and line.endswith((".", "?", "!"))
    assert said in line and "unexpected" not in line and "Traceback" not in shown.err
    assert contents(folder) == before and not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (("--only", "0", "--target", "channels=0.5"), (4, 16)),
        (("--ratios", "3=0.25"), (8, 4)),
        (("--target", "channels=0.5", "--scope", "local", "--outputs", ""), (4, 8)),
    ],
)
def test_a_part_is_cut(folder: Path, options: tuple[str, ...], kept: tuple[int, int]) -> None:
    assert podar("prune", "net.py:make", *options, "--out", "runs/part", "--quiet") == 0
    summary = json.loads((folder / "runs" / "part" / "summary.json").read_text())
    assert tuple(layer["after"] for layer in summary["layers"] if layer["name"] in ("0", "3")) == kept


def test_a_flag_that_is_not_typed_leaves_the_default(folder: Path) -> None:
    for typed, told in (((), None), (("--no-compensate",), False)):
        out = f"runs/{len(typed)}"
        assert podar(*CUT, *typed, "--out", out, "--quiet") == 0
        (asked,) = json.loads((folder / out / "summary.json").read_text())["recipe"]["stages"][:1]
        assert asked["prune"]["compensate"] is told


def test_a_pickle_that_can_run_programs_needs_trust(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(folder / "owned"),)

    torch.save({"0.weight": Payload()}, folder / "weights.pt")
    assert podar(*CUT, "--weights", "weights.pt") == 1
    said = capsys.readouterr().err
    assert "--trust" in said and "program" in said
    assert not (folder / "owned").exists() and not (folder / "runs").exists()


def test_weights_that_do_not_fit_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"0.weight": torch.zeros(4, 1, 3, 3)}, folder / "other.safetensors")
    assert podar(*CUT, "--weights", "other.safetensors") == 1
    assert "other.safetensors" in capsys.readouterr().err


def test_prune_train_report_and_what_is_refused_afterwards(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inputs = contents(folder)
    args = (*CUT, "--data", "data.npz", "--epochs", "1", "--out", "runs/x", "--quiet")
    assert podar(*args, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((folder / "runs/x/summary.json").read_text())
    assert summary["command"].startswith("podar prune net.py:make")
    assert abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.6) <= 0.03
    assert 0 <= summary["after"]["accuracy"] <= 1 and len(summary["history"]) == 1
    assert inputs.items() <= contents(folder).items(), "the user's files are as they were"

    run = contents(folder / "runs")
    assert podar(*args) == 1
    assert "already holds a run" in capsys.readouterr().err
    assert podar("resume", "runs/x") == 1
    assert "nothing to resume" in capsys.readouterr().err
    assert contents(folder / "runs") == run

    (folder / "runs/x/report.html").unlink()
    assert podar("report", "runs/x") == 0
    shown = capsys.readouterr().out
    assert (folder / "runs/x/report.html").read_bytes() == run["x/report.html"]
    assert "Report: runs/x/report.html" in shown and "MACs" in shown and "Accuracy" in shown


def test_whole_blocks_go_where_depth_is_asked_for(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    args = ("prune", "demo", "--target", "macs=0.3", "--scope", "local", "--depth", "--out", "runs/deep", "--quiet")
    assert podar(*args, "--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["blocks"] and abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.3) <= 0.03
    assert podar("inspect", "runs/deep", "--json") == 0
    assert json.loads(capsys.readouterr().out)["cost"]["params"] == summary["after"]["params"]


def test_inspect_and_bench_speak_json(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert podar("inspect", "net.py:make", "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [group["size"] for group in found["groups"]] == [8, 16]
    assert found["frozen_by_reason"]
    assert podar("inspect", "net.py:make", "--explain", "3") == 0
    assert "16" in capsys.readouterr().out
    assert podar("bench", "net.py:make", "--runtime", "torch", "--seconds", "0.05", "--json") == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["latency_ms"]["p50"] > 0


def test_the_exported_file_is_named_with_its_parity(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert podar("export", "net.py:make", "--out", "net.onnx", "--json") == 0
    exported = json.loads(capsys.readouterr().out)
    assert exported["bytes"] == (folder / "net.onnx").stat().st_size and exported["parity"] < 1e-4


def test_debug_shows_where_an_error_comes_from(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert podar("inspect", "net.py:maek", "--debug") == 1
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("args", "code", "kind"),
    [
        (("inspect", "net.py:maek"), 1, "PodarError"),
        (("prune", "net.py:make", "--target", "half"), 2, "UsageError"),
        (("inspect", "net.py:make", "--no-such-option"), 2, "UsageError"),
        (("no-such-command",), 2, "UsageError"),
        (("inspect",), 2, "UsageError"),
        (("resume", "a\x1b[31mb"), 1, "PodarError"),
        (("inspect", "net.py:failing"), 1, "PodarError"),
    ],
)
def test_every_failure_is_an_object_where_json_is_asked_for(
    folder: Path, capsys: pytest.CaptureFixture[str], args: tuple[str, ...], code: int, kind: str
) -> None:
    for line in ((*args, "--json"), ("--json", *args)):
        assert podar(*line) == code
        captured = capsys.readouterr()
        error = json.loads(captured.out)["error"]
        assert (error["kind"], error["exit_code"]) == (kind, code)
        assert "\x1b" not in captured.out + captured.err and " ".join(captured.err.split()).endswith(error["message"])


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("podar inspect torchvision:resnet1", "torchvision:resnet18"),
        ("podar prune demo --data fash", "fashion-mnist"),
        ("podar prune demo --scope iso", "isomorphic"),
        ("podar export demo --format on", "onnx"),
    ],
)
def test_the_shell_completes(words: str, found: str) -> None:
    environment = {**os.environ, "_PODAR_COMPLETE": "complete_bash", "COMP_WORDS": words}
    environment["COMP_CWORD"] = str(len(words.split()) - 1)
    code = "from podar.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert found in done.stdout or found.rpartition(":")[2] in done.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT between processes")
@pytest.mark.parametrize("stage", ["prune", "fine-tune"])
@pytest.mark.parametrize("sent", ["SIGINT", "SIGTERM"])
def test_ctrl_c_in_the_middle_of_a_stage(folder: Path, stage: str, sent: str) -> None:
    args = [*CUT, "--data", "data.npz", "--epochs", "2000", "--out", "runs/x"]
    before = contents(folder)
    # The stage before `stage` prints its line when it ends: then the signal hits the stage itself.
    previous = {"prune": "evaluate dense", "fine-tune": "recalibrate"}[stage]
    # A test run in the background hands down that Ctrl-C is ignored; a terminal does not.
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "import sys; from podar.cli import main; sys.argv[0] = 'podar'; main()"
    with subprocess.Popen([sys.executable, "-c", code, *args], stderr=subprocess.PIPE, text=True) as started:
        assert started.stderr is not None
        for line in started.stderr:
            if line.startswith(previous):
                break
        started.send_signal(getattr(signal, sent))
        rest = started.stderr.read()
    assert started.returncode == 1, rest
    last = rest.strip().splitlines()[-1]
    assert last == f"Error: interrupted in the stage '{stage}': podar resume runs/x --trust goes on from there."
    assert "Traceback" not in rest
    assert [p.name for p in (folder / "runs/x").iterdir()] == [".work"], "nothing half-written"
    assert before.items() <= contents(folder).items()
