"""Ctrl-C, and the signals by which a system ends a program, all end a command in the same way: in one sentence."""

from __future__ import annotations

import signal
from types import FrameType

arrived: list[int] = []
"""Signals that came so far: a library may make another error of the interruption, or none at all."""


def listen() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise KeyboardInterrupt, unless whoever started podar had them ignored."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)  # Windows knows no SIGHUP
        if number is None or signal.getsignal(number) not in (signal.SIG_DFL, signal.default_int_handler):
            continue
        try:
            signal.signal(number, _stop)
        except ValueError:  # not in the main thread: whoever called podar there decides
            return


def _stop(number: int, frame: FrameType | None) -> None:
    arrived.append(number)
    raise KeyboardInterrupt
