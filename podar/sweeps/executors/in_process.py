"""in-process: one task after the other, in the process that asks."""

from __future__ import annotations

from collections.abc import Generator, Sequence

from podar.errors import PodarError, first_line
from podar.sweeps.executors.register import Outcome, Task, Told, Work, executor


@executor("in-process", help="one after the other, in this process")
def in_process(work: Work, tasks: Sequence[Task], jobs: int, told: Told) -> Generator[Outcome, None, None]:
    """Do every task in this process. An interruption ends them all, also one that a run has reported as an error."""
    for task in tasks:

        def progress(stage: str, done: int, total: int, info: dict[str, float], task: Task = task) -> None:
            told(task, stage, done, total, info)

        try:
            work(task.data, progress)
        except Exception as error:
            if isinstance(error.__cause__, KeyboardInterrupt):
                raise KeyboardInterrupt from error
            yield Outcome(task.name, reason_of(error))
        else:
            yield Outcome(task.name)


def reason_of(error: BaseException) -> str:
    """Why a task died, in words that end a sentence."""
    return str(error).rstrip(".") if isinstance(error, PodarError) else f"{type(error).__name__}: {first_line(error)}"
