"""Code runs where the command line names it; a recipe, a state or a run folder that names code asks for --trust."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from podar import cli
from podar.trust import user_code

NETWORK = """
import pathlib
pathlib.Path(__file__).with_suffix('.ran').touch()
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))

class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
    def forward(self, x):
        return x * self.conv(x).sigmoid()
"""
YOLO = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Gate, []]
head:
  - [[0, 1], 1, Detect, [nc]]
"""
STAGES = [{"prune": {"target": "macs=0.6", "multiple_of": 1}}]


def podar(*args: str) -> int:
    return cli.app([*args, "--quiet"], standalone_mode=False, prog_name="podar") or 0


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "net.py").write_text(NETWORK)
    (tmp_path / "own.yaml").write_text(YOLO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(user_code, "_taken", {})
    return tmp_path


def ran(folder: Path) -> bool:
    mark = folder / "net.ran"
    there = mark.exists()
    mark.unlink(missing_ok=True)
    return there


def saved(folder: Path, spec: dict[str, object]) -> Path:
    """A folder as podar saves it, with another source.json."""
    import torch
    from safetensors.torch import save_file

    from podar.plans.plan import Plan

    (folder / "run").mkdir(exist_ok=True)
    save_file({"w": torch.zeros(1)}, folder / "run" / "model.safetensors")
    Plan().save(folder / "run" / "plan.json")
    (folder / "run" / "source.json").write_text(json.dumps(spec))
    return folder / "run"


def begun(folder: Path, recipe: dict[str, object]) -> Path:
    """A run as it lies there when it was broken off in its first step."""
    (folder / "broken" / ".work").mkdir(parents=True, exist_ok=True)
    state = {"recipe": recipe, "command": "podar", "done": []}
    (folder / "broken" / ".work" / "state.json").write_text(json.dumps(state))
    return folder / "broken"


@pytest.mark.parametrize("named", [{"model": "net.py:make"}, {"model": "own.yaml", "modules": ["net.py"]}])
def test_what_a_file_names_needs_trust(
    folder: Path, capsys: pytest.CaptureFixture[str], named: dict[str, object]
) -> None:
    (folder / "recipe.yaml").write_text(json.dumps({**named, "stages": STAGES}))
    commands = [
        ("run", "recipe.yaml", "--out", "out"),
        ("resume", str(begun(folder, {**named, "stages": STAGES}))),
        ("inspect", str(saved(folder, {"model_args": {}, **named}))),
        ("bench", str(saved(folder, {"model_args": {}, **named}))),
    ]
    for command in commands:
        assert podar(*command) == 1, command
        said = capsys.readouterr().err
        assert "--trust" in said or "--module net.py" in said, command
        assert not ran(folder), command
        assert podar(*command, "--trust") in (0, 1), command
        assert ran(folder), command
        user_code._taken.clear()


def test_a_file_named_on_the_command_line_runs(folder: Path) -> None:
    assert podar("inspect", "net.py:make") == 0
    assert ran(folder)
    assert podar("inspect", "own.yaml") == 1
    assert not ran(folder)
    assert podar("inspect", "own.yaml", "--module", "net.py") == 0
    assert ran(folder)


def test_module_is_consent_for_that_file_alone(folder: Path) -> None:
    (folder / "other.py").write_text("x = 1")
    assert podar("inspect", "own.yaml", "--module", "other.py") == 1
    assert podar("inspect", str(saved(folder, {"model": "net.py:make"})), "--module", "other.py") == 1
    assert not ran(folder)


def test_a_run_with_a_layer_of_the_users_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Cut, saved, and opened again from its folder."""
    asked = ("--target", "params=0.8", "--multiple-of", "1", "--out", "out")
    assert podar("prune", "own.yaml", "--module", "net.py", *asked) == 0, capsys.readouterr().err
    user_code._taken.clear()
    assert podar("inspect", "out") == 1
    assert podar("inspect", "out", "--module", "net.py") == 0
    assert podar("inspect", "out/pruned.pt", "--module", "net.py") == 0


@pytest.mark.parametrize("args", [("--module", "none.py"), ("--module", "own.yaml"), ("--module", ".")])
def test_modules_that_make_no_sense(folder: Path, args: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert podar("inspect", "own.yaml", *args) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "spec",
    [
        {"model": "run"},  # a folder that names itself
        {"model": 5},
        {"model": ""},
        {"model": "\\"},
        {},
        [],
        {"model": "yolo26n.yaml", "model_args": [1]},
        {"model": "yolo26n.yaml", "modules": "net.py"},
    ],
)
def test_a_source_that_names_no_model(folder: Path, spec: object, capsys: pytest.CaptureFixture[str]) -> None:
    saved(folder, {})
    (folder / "run" / "source.json").write_text(json.dumps(spec))
    assert podar("inspect", "run") == 1
    said = capsys.readouterr().err
    assert "unexpected" not in said and said.count("\n") <= 3


def test_exported_programs_need_trust(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """They hold pickles. A file that this process wrote is known, wherever it was moved; another is not."""
    import torch

    import podar as package
    from podar.errors import PodarError
    from podar.trust import programs

    model, inputs = torch.nn.Sequential(torch.nn.Linear(4, 4)), torch.zeros(1, 4)
    package.export(model, "x.pt2", inputs)
    Path("x.pt2").rename("y.pt2")
    package.measure("y.pt2", inputs, seconds=0.05, memory=False)
    programs._known.clear()
    with pytest.raises(
        PodarError, match=r"y\.pt2 was not written by this podar.* add --trust \(in Python trust=True\)"
    ):
        package.measure("y.pt2", inputs, seconds=0.05)
    assert podar("bench", "y.pt2", "--seconds", "0.05") == 1
    assert "--trust" in capsys.readouterr().err
    Path("run").mkdir()
    exports = {"pt2": {"file": "model.pt2", "dense_file": "model.pt2"}}
    (folder / "run" / "summary.json").write_text(json.dumps({"exports": exports}))
    Path("y.pt2").rename("run/model.pt2")
    assert podar("bench", "run", "--seconds", "0.05") == 1
    assert podar("bench", "run/model.pt2", "--seconds", "0.05", "--trust") == 0


def test_a_summary_that_names_files_elsewhere(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "run").mkdir()
    for name in ("../x.onnx", "/etc/passwd"):
        exports = {"onnx": {"file": name, "dense_file": name}}
        (folder / "run" / "summary.json").write_text(json.dumps({"exports": exports}))
        assert podar("bench", "run") == 1
        assert "outside its folder" in capsys.readouterr().err
