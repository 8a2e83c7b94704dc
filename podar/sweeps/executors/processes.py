"""processes: each task in a process of its own, several at a time; none of them outlives the one that asks.

A child reads its task from its standard input, which stays open as long as its parent lives, and tells how far it is on
its standard output, a line of JSON each. What it or a library prints goes to standard error, which is kept for the last
line of a child that died without a word.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Generator, Sequence
from typing import IO, Any

from podar.sweeps.executors.register import Outcome, Task, Told, Work, executor

_PATIENCE = 20.0  # seconds that a child has to end by itself once it was asked to
_TAIL = 4096  # bytes of a dead child's standard error that are looked at


@executor("processes", help="each point in a process of its own, --jobs of them at a time")
def processes(work: Work, tasks: Sequence[Task], jobs: int, told: Told) -> Generator[Outcome, None, None]:
    """Keep `jobs` children at work until every task is done."""
    waiting, lines = list(tasks), queue.Queue[tuple[_Child, dict[str, Any] | None]]()
    alive: list[_Child] = []
    try:
        while waiting or alive:
            while waiting and len(alive) < jobs:
                alive.append(_Child(work, waiting.pop(0), jobs, lines))
            child, said = lines.get()
            if said is None:
                alive.remove(child)
                yield Outcome(child.task.name, child.reason())
            elif "progress" in said:
                told(child.task, *said["progress"])
            else:
                child.said = said
    finally:
        _end(alive)


class _Child:
    """A process that does one task."""

    def __init__(
        self, work: Work, task: Task, jobs: int, lines: queue.Queue[tuple[_Child, dict[str, Any] | None]]
    ) -> None:
        self.task = task
        self.said: dict[str, Any] = {}
        self.errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115  # closed when the child has ended
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "podar.sweeps.executors._child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.errors,
            env={**_threads(jobs), **os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
            start_new_session=True,  # Ctrl-C in a terminal reaches every process of a group: the parent ends this one
        )
        request = {"module": work.__module__, "function": work.__qualname__, "data": task.data}
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it has died already, which its end will tell
            self.process.stdin.write(json.dumps(request).encode() + b"\n")
            self.process.stdin.flush()
        self.reader = threading.Thread(target=self._read, args=(lines,), daemon=True, name="podar-sweep")
        self.reader.start()

    def _read(self, lines: queue.Queue[tuple[_Child, dict[str, Any] | None]]) -> None:
        assert self.process.stdout is not None
        with self.process.stdout:
            for line in self.process.stdout:
                with contextlib.suppress(ValueError):  # half a line of a child that was killed
                    lines.put((self, json.loads(line)))
        self.process.wait()
        lines.put((self, None))

    def reason(self) -> str | None:
        """Why it died; None where it did what it was to do."""
        code = self.process.wait()
        self._close()
        if self.said.get("done"):
            return None
        if "reason" in self.said:
            return self.said["reason"]
        how = f"signal {_signal(-code)}" if code < 0 else f"exit code {code}"
        return f"its process died ({how}{self._last_words})"

    def _close(self) -> None:
        self.reader.join(_PATIENCE)
        if self.process.stdin is not None and not self.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self.process.stdin.close()
        end = self.errors.seek(0, os.SEEK_END)
        self.errors.seek(max(0, end - _TAIL))
        said = self.errors.read().decode(errors="replace").strip().splitlines()
        self._last_words = f", {said[-1].strip()[:200]}" if said else ""
        self.errors.close()


def _end(alive: Sequence[_Child]) -> None:
    """Ask children to end, and end those that do not, with all that they started."""
    for child in alive:
        child.process.terminate()
    for child in alive:
        try:
            child.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            if hasattr(os, "killpg"):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.kill()
            child.process.wait()
        child._close()


def _threads(jobs: int) -> dict[str, str]:
    """Processes that compute at the same time share the processor's cores, unless the user said otherwise."""
    if jobs == 1:
        return {}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return {"OMP_NUM_THREADS": str(max(1, cores // jobs))}


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return str(number)
