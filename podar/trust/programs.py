"""Files that may run code when they are read (.pt2 holds pickles): which this process wrote, or the user trusts."""

from __future__ import annotations

import os
from pathlib import Path

from podar.errors import PodarError

_known: set[tuple[int, int, int, int]] = set()


def remember(path: str | os.PathLike[str]) -> None:
    """From now on this process may read the file as it is now, also once it was moved."""
    _known.add(_identity(Path(path)))


def refuse_unknown(path: str | os.PathLike[str]) -> None:
    """Let a file pass that was remembered, and was not written to since.

    **Raises:** `PodarError` for any other; the sentence names --trust.
    """
    path = Path(path)
    if path.is_file() and _identity(path) not in _known:
        raise PodarError(
            f"{path} was not written by this podar, and reading a {path.suffix} file can run any program: add --trust "
            "(in Python trust=True) if you know where it comes from."
        )


def _identity(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
