"""The register of executors: each is one function that does many tasks, somewhere, and says how each of them ended."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from podar.errors import check_known

Progress = Callable[[str, int, int, dict[str, float]], None]
"""`progress(stage, done, total, info)`, as for a run."""

Work = Callable[[Mapping[str, Any], Progress], None]
"""`work(data, progress)`: what is done for every task. A function of a module, so that other processes find it by its
name. What it raises is the reason why the task died."""


@dataclass(frozen=True)
class Task:
    """One thing to do: its name, and plain data (as JSON holds it) for the work."""

    name: str
    data: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """How a task ended: `reason` says in a sentence why it died, None where it is done."""

    name: str
    reason: str | None = None


Told = Callable[[Task, str, int, int, dict[str, float]], None]
"""`told(task, stage, done, total, info)`: how far a task is."""

Run = Callable[[Work, Sequence[Task], int, Told], Generator[Outcome, None, None]]


@dataclass(frozen=True)
class Executor:
    """One way to carry tasks out.

    - `help`: what it is, in a few words.
    - `run(work, tasks, jobs, told)`: does every task, up to `jobs` at a time, and yields an outcome for each as it
      ends; a task that dies does not touch the others. When the generator is closed, what is under way is ended, and
      nothing of it goes on.
    """

    name: str
    help: str
    run: Run


_executors: dict[str, Executor] = {}
EXECUTORS: Mapping[str, Executor] = _executors
"""Every executor by its name."""


def executor(name: str, *, help: str = "") -> Callable[[Run], Run]:
    """Register a function `(work, tasks, jobs, told) → outcomes` as an executor; `Executor` says what it must do.

    ```python
    @executor("processes", help="each task in a process of its own")
    def processes(work, tasks, jobs, told): ...
    ```
    """

    def register(run: Run) -> Run:
        _executors[name] = Executor(name, help, run)
        return run

    return register


def unregister(name: str) -> None:
    """Take an executor out of the register again."""
    del _executors[name]


def known(name: str) -> Executor:
    """The executor of that name.

    **Raises:** `UsageError` where there is none.
    """
    check_known("executor", name, EXECUTORS)
    return EXECUTORS[name]
