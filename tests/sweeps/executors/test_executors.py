"""Executors: every task has an outcome, a death is told with its reason, and nothing outlives who asked."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

import pytest

from podar.errors import UsageError
from podar.sweeps import executors
from podar.sweeps.executors import EXECUTORS, Outcome, Task
from podar.sweeps.executors.register import Told, Work, unregister

HERE = Path(__file__).parent


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The tests' own work, as a module that a child process can import."""
    monkeypatch.syspath_prepend(str(HERE))
    spec = importlib.util.find_spec("work")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.carry_out


def silent(task: Task, stage: str, done: int, total: int, info: dict[str, float]) -> None:
    """Nobody looks."""


def outcomes(name: str, work: Work, tasks: Sequence[Task], jobs: int = 1) -> dict[str, str | None]:
    return {found.name: found.reason for found in EXECUTORS[name].run(work, tasks, jobs, silent)}


@pytest.mark.parametrize("name", ["in-process", "processes"])
def test_one_that_dies_does_not_touch_the_others(name: str, work: Work, tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []
    tasks = [Task(how, {"how": how, "file": str(tmp_path / how)}) for how in ("good", "fail", "defect", "talk")]
    run = EXECUTORS[name].run(work, tasks, 2, lambda task, stage, *_: told.append((task.name, stage)))
    found = {outcome.name: outcome.reason for outcome in run}
    assert found == {"good": None, "fail": "this cannot be done", "defect": "KeyError: 'missing'", "talk": None}
    assert sorted(told) == [(task.name, "begun") for task in sorted(tasks, key=lambda task: task.name)]
    assert (tmp_path / "good").is_file() and (tmp_path / "talk").is_file()


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_a_process_that_is_killed_is_told_by_its_signal(work: Work, tmp_path: Path) -> None:
    tasks = [Task("dead", {"how": "die"}), Task("good", {"how": "good", "file": str(tmp_path / "good")})]
    found = outcomes("processes", work, tasks, 2)
    assert found == {"dead": "its process died (signal SIGKILL)", "good": None}


def test_processes_that_compute_together_share_the_cores(
    work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    tasks = [Task(str(k), {"how": "good", "file": str(tmp_path / str(k))}) for k in range(2)]
    assert set(outcomes("processes", work, tasks, 64).values()) == {None}
    own = [(tmp_path / str(k)).read_text().split() for k in range(2)]
    assert [threads for _, threads in own] == ["1", "1"]
    assert len({pid for pid, _ in own} | {str(os.getpid())}) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_closing_ends_what_is_under_way(work: Work, tmp_path: Path) -> None:
    tasks = [Task("good", {"how": "good", "file": str(tmp_path / "good")})]
    tasks += [Task(f"long {k}", {"how": "wait", "file": str(tmp_path / f"long{k}")}) for k in range(2)]
    run = EXECUTORS["processes"].run(work, tasks, 3, silent)
    assert next(run) == Outcome("good")
    while not all((tmp_path / f"long{k}").is_file() for k in range(2)):
        time.sleep(0.05)
    run.close()
    assert [(tmp_path / f"long{k}").read_text() for k in range(2)] == ["put in order"] * 2


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX's")
def test_children_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "import work\nfrom podar.sweeps.executors import EXECUTORS, Task\n"
        "task = Task('long', {'how': 'wait', 'file': sys.argv[2]})\n"
        "list(EXECUTORS['processes'].run(work.carry_out, [task], 1, lambda *_: None))\n"
    )
    file = tmp_path / "long"
    with subprocess.Popen([sys.executable, "-c", code, str(HERE), str(file)]) as parent:
        while not file.is_file() or not file.read_text():
            time.sleep(0.05)
        parent.send_signal(signal.SIGKILL)
    for _ in range(200):
        if file.read_text() == "put in order":
            break
        time.sleep(0.05)
    assert file.read_text() == "put in order"


def test_an_executor_is_one_function(work: Work, tmp_path: Path) -> None:
    @executors.executor("backwards", help="the last task first")
    def backwards(work: Work, tasks: Sequence[Task], jobs: int, told: Told) -> Generator[Outcome, None, None]:
        for task in reversed(tasks):
            work(task.data, lambda *_: None)
            yield Outcome(task.name)

    try:
        tasks = [Task(name, {"how": "good", "file": str(tmp_path / name)}) for name in "ab"]
        assert list(outcomes("backwards", work, tasks)) == ["b", "a"]
        assert executors.known("backwards").help == "the last task first"
    finally:
        unregister("backwards")
    with pytest.raises(UsageError, match="there is no executor 'proceses'; did you mean processes"):
        executors.known("proceses")


def test_an_interruption_ends_them_all(tmp_path: Path) -> None:
    def interrupted(data: Any, progress: Any) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt as error:
            raise ValueError("interrupted in the stage 'x'") from error

    with pytest.raises(KeyboardInterrupt):
        outcomes("in-process", interrupted, [Task("a"), Task("b")])
