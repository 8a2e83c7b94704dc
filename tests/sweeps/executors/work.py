"""What the tests of executors let be done: a function of a module, so that other processes find it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from podar.errors import PodarError


def carry_out(data: Mapping[str, Any], progress: Callable[[str, int, int, dict[str, float]], None]) -> None:
    """Do what the data say: write a file, fail, print, die, or take long."""
    progress("begun", 0, 1, {})
    how = data["how"]
    if how == "fail":
        raise PodarError("this cannot be done.")
    if how == "defect":
        raise KeyError("missing")
    if how == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "talk":
        os.write(1, b"a library prints this\n")
    if how == "wait":
        Path(data["file"]).write_text(str(os.getpid()))
        try:
            time.sleep(60)
        except KeyboardInterrupt:
            Path(data["file"]).write_text("put in order")
            raise
    Path(data["file"]).write_text(f"{os.getpid()} {os.environ.get('OMP_NUM_THREADS')}")
