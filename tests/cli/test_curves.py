"""podar pareto and podar sensitivity at the command line: tables, JSON, exit codes, Ctrl-C, and what makes no sense."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from podar import cli

PARETO = ["pareto", "net.py:make", "--data", "data.npz", "--out", "runs/x", "--multiple-of", "1"]


@pytest.fixture(autouse=True)
def folder(user_folder: Path) -> Path:
    """Where podar stands."""
    return user_folder


def podar(*args: str, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.app([*args])
    assert ended.value.code == code


def test_pareto_and_what_goes_on_from_it(capsys: pytest.CaptureFixture[str]) -> None:
    asked = [
        *PARETO,
        "--targets",
        "macs=0.5,0.00001",
        "--epochs",
        "0",
        "--measure-seconds",
        "0.02",
        "--runtime",
        "torch",
    ]
    podar(*asked, "--executor", "in-process", code=1)
    out, err = capsys.readouterr()
    assert "right after the cut" in out and "runs/x/report.html" in out
    assert err.splitlines()[-1].startswith("Error: 1 point died: macs=0.00001 (target macs=1e-05 cannot be reached")
    assert err.splitlines()[-1].endswith("the others are kept, and podar resume runs/x tries again.")
    podar("--json", "resume", "runs/x", "--trust", "--executor", "in-process", code=1)
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["kind"] == "pareto" and [point["name"] for point in found["failed"]] == ["macs=0.00001"]
    assert [(p["name"], p["series"]) for p in found["points"]] == [("dense", "dense"), ("macs=0.5", "cut")]
    podar("report", "runs/x", "--out", "again.html", code=1)
    assert Path("again.html").is_file() and "right after the cut" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--targets", ""], "names no target"),
        (["--targets", "macs=0.5,0.5"], "twice"),
        (["--targets", "macs=0.5", "--jobs", "0"], "--jobs"),
        (["--targets", "macs=0.5", "--imgsz", "x"], "no side in pixels"),
        (["--targets", "macs=0.5", "--executor", "proceses"], "did you mean processes?"),
        (["--targets", "macs=0.5", "--runtime", "onnxruntim"], "did you mean onnxruntime?"),
        (["--targets", "macs=0.5", "--scope", "globl"], "did you mean global"),
        ([], "--targets"),
    ],
)
def test_one_sentence_for_what_makes_no_sense(
    capsys: pytest.CaptureFixture[str], folder: Path, more: list[str], said: str
) -> None:
    podar(*PARETO, *more, code=2)
    told = capsys.readouterr().err
    assert said in told and told.count("Error:") == 1 and len(told.splitlines()) <= 2
    assert sorted(path.name for path in folder.iterdir()) == ["data.npz", "net.py"]


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGINT between processes")
@pytest.mark.parametrize("sent", ["SIGTERM", pytest.param("SIGINT", marks=pytest.mark.slow)])
def test_children_end_with_the_sweep_and_it_goes_on(folder: Path, sent: str) -> None:
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "import sys; from podar.cli import main; sys.argv[0] = 'podar'; main()"
    args = [*PARETO, "--targets", "macs=0.6,0.5", "--epochs", "100000", "--jobs", "2", "--runtime", "torch"]
    with subprocess.Popen([sys.executable, "-c", code, *args], stderr=subprocess.PIPE, text=True) as started:
        points = [folder / "runs/x" / name for name in ("macs=0.6", "macs=0.5")]
        while not all(list(point.glob(".work/*.checkpoint")) for point in points):
            assert started.poll() is None
            time.sleep(0.1)
        children = _children(started.pid)
        started.send_signal(getattr(signal, sent))
        assert started.stderr is not None
        rest = started.stderr.read()
    assert started.returncode == 1
    assert rest.splitlines()[-1] == (
        "Error: interrupted with 1 of 3 points finished: podar resume runs/x goes on from there."
    )
    assert len(children) >= 2 and not any(_alive(child) for child in children)
    assert (folder / "runs/x/dense/summary.json").is_file()
    assert all((point / ".work/state.json").is_file() for point in points), "they go on from where they were"


def _children(pid: int) -> list[int]:
    import psutil

    return [child.pid for child in psutil.Process(pid).children(recursive=True)]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_sensitivity(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["sensitivity", "net.py:make", "--data", "data.npz", "--fractions", "0.5", "--samples", "12"]
    podar(*asked)
    out = capsys.readouterr().out
    assert "50 % kept" in out and "runs/make-sensitivity/report.html" in out
    stored: dict[str, Any] = json.loads(Path("runs/make-sensitivity/sensitivity.json").read_text())
    assert [group["size"] for group in stored["groups"]] == [8, 16] and stored["accuracy"] is not None
    page = Path("runs/make-sensitivity/report.html").read_text()
    assert "<script" not in page and 'data-field="groups.1.cuts.0.compensated"' in page
    podar("--json", *asked, "--out", "other")
    assert json.loads(capsys.readouterr().out)["groups"] == stored["groups"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (["--data", "data.npz", "--fractions", "x"], "--fractions 'x'"),
        (["--data", "data.npz", "--fractions", "1"], "fraction 1.0"),
        (["--data", "data.npz", "--fractions", "0.5,0.5"], "twice"),
        (["--data", "data.npz", "--importance", "magnitud"], "did you mean 'magnitude'"),
        ([], "--data"),
    ],
)
def test_sensitivity_of_what_makes_no_sense(capsys: pytest.CaptureFixture[str], more: list[str], said: str) -> None:
    podar("sensitivity", "net.py:make", *more, code=2)
    assert said in capsys.readouterr().err
    assert not Path("runs").exists()
