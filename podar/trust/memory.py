"""How much memory may still be taken: what the machine has, and what the group of processes is allowed."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import psutil

_GROUPS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def free_memory() -> int:
    """Bytes that can be taken now without another program losing some; a container's limit counts.

    ```python
    >>> free_memory() > 0
    True

    ```
    """
    free = psutil.virtual_memory().available
    for limit, used in _GROUPS:
        with suppress(OSError, ValueError):  # no such file, or no limit ("max")
            free = min(free, max(int(Path(limit).read_text()) - int(Path(used).read_text()), 0) + _reclaimable())
    return max(free, 1)


def _reclaimable() -> int:
    """Bytes of cached files, which count as used in a group and are given back when memory is short."""
    return psutil.virtual_memory().cached if hasattr(psutil.virtual_memory(), "cached") else 0
