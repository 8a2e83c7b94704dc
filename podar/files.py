"""Writing files so that a reader sees the old file or the whole new one, never a part."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from podar.errors import PodarError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    The temporary name ends in the same suffix, for libraries that choose a format by it. Folders on the way are made.

    **Arguments:** `path`: the file to write.

    **Returns:** a context manager that yields the temporary path (an empty file is there already).

    **Raises:** `PodarError` when the folder cannot be written to or the disk is full. Any other error of the
    block passes through; in every case, Ctrl-C too, `path` keeps what it held.

    ```python
    with atomic_path("runs/x/model.onnx") as temporary:
        temporary.write_bytes(onnx_bytes)
    ```
    """
    target = Path(path)
    if target.is_dir():
        raise PodarError(f"cannot write {target}: it is a folder; name a file.")
    temporary = target.with_name(f".{target.stem}.{secrets.token_hex(4)}{target.suffix}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
    except OSError as error:
        raise PodarError(f"cannot write {target}: {error.strerror or error}.") from error
    try:
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        os.replace(temporary, target)
    except Exception as error:
        # Compiled writers (safetensors, ONNX) wrap the system's error in one of their own and keep only its words.
        full = os.strerror(errno.ENOSPC)
        if (isinstance(error, OSError) and error.errno in _DISK) or full in str(error):
            reason = error.strerror if isinstance(error, OSError) and error.strerror else full
            raise PodarError(f"cannot write {target}: {reason}.") from error
        raise
    finally:
        with suppress(OSError):
            temporary.unlink()


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` in one step: after a crash the file is the old one or the new one.

    **Raises:** `PodarError` when the folder cannot be written to or the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)
