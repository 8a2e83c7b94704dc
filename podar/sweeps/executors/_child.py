"""The child process of `podar.sweeps.executors.processes`: reads one task, does it, and tells how far it is."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import threading
import time
import warnings
from typing import Any

_EVERY = 0.2  # seconds between two lines about the same stage


def main() -> int:
    """Do the task on standard input, and report on standard output. Returns the exit status: 1 where the task died."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not mix with our lines
    signal.signal(signal.SIGTERM, _interrupt)
    request = json.loads(sys.stdin.buffer.readline())
    threading.Thread(target=_watch_parent, daemon=True, name="podar-parent").start()
    last: list[Any] = ["", 0.0]

    def say(line: dict[str, Any]) -> None:
        channel.write(json.dumps(line) + "\n")
        channel.flush()

    def progress(stage: str, done: int, total: int, info: dict[str, float]) -> None:
        now = time.monotonic()
        if stage != last[0] or done >= total or now - last[1] > _EVERY:
            last[:] = [stage, now]
            say({"progress": [stage, done, total, info]})

    from podar.sweeps.executors.in_process import reason_of

    if not sys.warnoptions:
        warnings.simplefilter("ignore")  # as on the command line: libraries warn their programmers
    try:
        getattr(importlib.import_module(request["module"]), request["function"])(request["data"], progress)
    except BaseException as error:
        say({"reason": reason_of(error)})
        return 1
    say({"done": True})
    return 0


def _interrupt(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_IGN)  # one signal is enough: the run is brought to an orderly end now
    raise KeyboardInterrupt


def _watch_parent() -> None:
    """End this process when its parent is gone. The parent writes no more, so standard input ends only then."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
