"""Python's collector of unreachable cycles, held back while many objects are made and none of them is garbage yet."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Generator


@contextlib.contextmanager
def collector_held_back() -> Generator[None]:
    """Let the collector wait until the end of the context, since it would look at all young objects again and again.

    A trace makes tens of thousands of objects within milliseconds and keeps most of them, so a tenth of its time would
    go into looking for garbage. What nobody refers to any more is still freed at once; only cycles wait. Threads may
    use this at the same time: the one that found the collector on turns it on again.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
