"""Sweeps: finished points stay, whatever becomes of the others; the same sweep goes on, another one is refused."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from podar.errors import PodarError, UsageError
from podar.formats import file_format, registry
from podar.formats.registry import Written
from podar.runs import sweeping
from podar.runtimes import Port, register, runtime
from podar.sweeps.executors import EXECUTORS, Outcome, Task, executor
from podar.sweeps.executors.register import Told, Work, unregister
from podar.sweeps.points import pareto_points
from podar.sweeps.summary import SweepSummary, read_summary


@pytest.fixture(autouse=True)
def folder(user_folder: Path) -> Path:
    """Where podar stands."""
    return user_folder


class Pickled:
    """A session that runs a pickled module: files are written and opened at once."""

    outputs = (Port("y", (None, 3), "float32"),)
    version = "pickled 1"

    def __init__(self, file: Path) -> None:
        self.module, name, shape = pickle.loads(file.read_bytes())
        self.inputs = (Port(name, (None, *shape[1:]), "float32"),)

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        with torch.no_grad():
            return [output.numpy() for output in self.module(torch.from_numpy(arrays[0]))]


@pytest.fixture(autouse=True)
def pickled() -> Iterator[None]:
    """A format and a runtime of our own, in which a network is written in milliseconds."""

    @runtime("pickled", package="pickle", suffixes=(".pickled",))
    def open_(file: Path, threads: int) -> Pickled:
        return Pickled(file)

    @file_format("pickled", suffix=".pickled", runtime="pickled")
    def write(flat: Any, path: Path, options: Any) -> list[Any]:
        def attempt() -> Written:
            path.write_bytes(pickle.dumps((flat.module, flat.input_names[0], flat.inputs[0].shape)))
            return Written("pickle", dynamic_batch=True)

        return [attempt]

    yield
    registry.unregister("pickled")
    register.unregister("pickled")


@pytest.fixture
def nobody() -> Iterator[str]:
    """An executor of which every task dies at once."""

    @executor("nobody-home", help="does nothing")
    def nobody_home(work: Work, tasks: Sequence[Task], jobs: int, told: Told) -> Generator[Outcome, None, None]:
        yield from (Outcome(task.name, "nobody is home") for task in tasks)

    yield "nobody-home"
    unregister("nobody-home")


def sweep(*targets: str, out: str = "x", **more: Any) -> SweepSummary:
    """A sweep in this process, measured briefly: `finetune`, `family` and `sizes` as `pareto_points` has."""
    named = {key: more.pop(key) for key in ("family", "sizes", "finetune") if key in more}
    points = pareto_points(
        {"model": "net.py:make", "data": "data.npz", "weights": None},
        targets,
        **{"prune": {"multiple_of": 1}, "finetune": None, "format": "pickled", **named},
    )
    told = {
        "command": "podar pareto",
        "runtime": "pickled",
        "format": "pickled",
        "seconds": 0.02,
        "executor": "in-process",
    }
    return sweeping.start(points, Path(out), **{**told, **more})[0]


def test_a_sweep_is_a_folder_of_runs_and_one_curve() -> None:
    found = sweep("macs=0.6", "macs=0.3", family=["net.py:small"], sizes=[8], finetune={"epochs": 1})
    assert not found.failed
    series = {(p.name, p.series) for p in found.points}
    assert series == {
        ("dense", "dense"),
        ("net.py:small", "family"),
        ("8 px", "size"),
        *((target, stage) for target in ("macs=0.6", "macs=0.3") for stage in ("cut", "trained")),
    }
    assert all(p.latency_ms is not None for p in found.points)
    assert found == read_summary("x")
    by_name = {(p.name, p.series): p for p in found.points}
    dense = by_name["dense", "dense"]
    assert abs(by_name["macs=0.6", "cut"].macs / dense.macs - 0.6) < 0.03
    assert by_name["8 px", "size"].macs < dense.macs and by_name["net.py:small", "family"].macs < dense.macs
    for point in found.points:
        own = json.loads((Path("x") / point.folder / "summary.json").read_text())
        if point.series in ("trained", "dense"):
            assert own["after"]["accuracy"] == point.accuracy and own["after"]["macs"] == point.macs
        assert f"{point.folder.replace('=', '%3D')}/report.html" in Path("x/report.html").read_text()
    assert found.fronts["macs"].keys() == {"cut", "trained", "untouched"}


def test_the_same_again_does_nothing_and_a_lost_point_is_made_again() -> None:
    first = sweep("macs=0.6", "macs=0.4")
    stamp = Path("x/dense/summary.json").stat().st_mtime_ns
    assert sweep("macs=0.6", "macs=0.4", command="typed otherwise") == first
    for file in Path("x/macs=0.4").rglob("*"):
        file.unlink(missing_ok=True) if file.is_file() else None
    assert len(sweep("macs=0.6", "macs=0.4").points) == 3
    assert Path("x/dense/summary.json").stat().st_mtime_ns == stamp


def test_points_that_die_are_named_and_the_others_stay() -> None:
    found = sweep("macs=0.6", "macs=0.00001", family=["net.py:seven", "net.py:lost"])
    reasons = {point.name: point.reason for point in found.failed}
    assert reasons.keys() == {"macs=0.00001", "net.py:seven", "net.py:lost"}
    assert "cannot be reached: the nearest is" in reasons["macs=0.00001"]
    assert "has 3 classes and net.py:seven has 7 outputs" in reasons["net.py:seven"]
    assert [(p.name, p.series) for p in found.points] == [("dense", "dense"), ("macs=0.6", "cut")]
    assert "cannot be reached" in Path("x/report.html").read_text()
    stamp = Path("x/macs=0.6/summary.json").stat().st_mtime_ns
    again = sweeping.resume(Path("x"), executor="in-process", trust=True)
    assert len(again.failed) == 3 and Path("x/macs=0.6/summary.json").stat().st_mtime_ns == stamp


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"targets": ["macs=0.6"]}, "holds a sweep with other points (dense, macs=0.6, macs=0.4)"),
        ({"finetune": {"epochs": 1}}, "holds a sweep with other options of macs=0.6"),
        ({"seconds": 0.03}, "holds a sweep with seconds=0.02"),
    ],
)
def test_another_sweep_is_refused(change: dict[str, Any], said: str, nobody: str) -> None:
    assert len(sweep("macs=0.6", "macs=0.4", executor=nobody).failed) == 3
    before = sorted(Path("x").rglob("*"))
    with pytest.raises(PodarError) as error:
        sweep(*change.pop("targets", ["macs=0.6", "macs=0.4"]), **change)
    assert said in str(error.value) and "podar resume x" in str(error.value)
    assert sorted(Path("x").rglob("*")) == before


def test_a_folder_of_something_else_is_refused() -> None:
    Path("x").mkdir()
    Path("x/summary.json").write_text("{}")
    with pytest.raises(PodarError, match="already holds something else"):
        sweep("macs=0.6")
    Path("file").write_text("")
    with pytest.raises(PodarError, match="is a file"):
        sweep("macs=0.6", out="file")


def test_what_cannot_be_opened_is_said_once_and_leaves_nothing() -> None:
    points = pareto_points(
        {"model": "net.py:mak", "data": "data.npz"}, ["macs=0.5"], prune={}, finetune=None, format="pickled"
    )
    with pytest.raises(PodarError, match="mak"):
        sweeping.start(points, Path("a/b"), command="podar pareto", runtime="pickled", format="pickled")
    assert not Path("a").exists()
    with pytest.raises(UsageError, match="there is no executor"):
        sweep("macs=0.5", executor="nobody")


@executor("breaks", help="stops before the last task")
def breaks(work: Work, tasks: Sequence[Task], jobs: int, told: Told) -> Generator[Outcome, None, None]:
    yield from EXECUTORS["in-process"].run(work, tasks[:-1], jobs, told)
    raise KeyboardInterrupt


unregister("breaks")


def test_interrupted_it_goes_on_with_the_others(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    executor("breaks")(breaks)
    try:
        with pytest.raises(PodarError, match=r"interrupted with 2 of 3 points finished: podar resume x goes on from"):
            sweep("macs=0.6", "macs=0.4", executor="breaks")
    finally:
        unregister("breaks")
    assert not Path("x/summary.json").exists()
    monkeypatch.chdir("/")  # it goes on from anywhere
    with pytest.raises(PodarError, match="add --trust"):
        sweeping.resume(folder / "x")
    found = sweeping.resume(folder / "x", executor="in-process", trust=True)
    assert len(found.points) == 3


def test_a_changed_model_makes_no_point_of_the_same_curve(folder: Path, nobody: str) -> None:
    sweep("macs=0.6", executor=nobody)
    time.sleep(0.02)
    (folder / "net.py").write_text((folder / "net.py").read_text() + "\n# another\n")
    with pytest.raises(PodarError, match=r"net.py .* since the sweep in x began: .*--despite-changes"):
        sweep("macs=0.6")
    found = sweeping.resume(Path("x"), executor="in-process", trust=True, despite_changes=True)
    assert any("net.py" in note for note in found.notes)


def test_only_one_process_is_at_work_in_it(nobody: str) -> None:
    sweep("macs=0.6", executor=nobody)
    code = "import sys\nfrom podar.files import lock\nheld = lock(sys.argv[1])\nprint('held', flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(PodarError, match="another podar is at work in x"):
            sweep("macs=0.6")
        other.communicate("\n")


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"points": [{"folder": "../up"}]}'])
def test_a_damaged_sweep_is_said_to_be(content: str, nobody: str) -> None:
    sweep("macs=0.6", executor=nobody)
    Path("x/sweep.json").write_text(content)
    with pytest.raises(PodarError, match=r"x/sweep.json .*damaged"):
        sweeping.resume(Path("x"), trust=True)
