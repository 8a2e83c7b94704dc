"""Writing files so that a reader sees the old file or the whole new one, never a part."""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, cast

from podar.errors import PodarError, did_you_mean

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}
_PART = ".part"  # how the name of an unfinished file's folder ends
_ATTEMPTS = 20
_HEADER = 1 << 27  # bytes; no header of a safetensors file is longer
_PROBE = 1 << 20  # bytes; where not even these can be written, the disk is full


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Lend a temporary path beside `path`; rename it to `path` when the block succeeds, remove it when it fails.

    The temporary file bears the same name, in a hidden folder of its own. Folders on the way are made. The file gets
    the mode that `open` would have given it, whatever the library that wrote it thinks best.

    **Arguments:** `path`: the file to write.

    **Returns:** A context manager that yields the temporary path; the block makes the file.

    **Raises:** `PodarError` when the folder cannot be written to or the disk is full. Any other error of the
    block passes through; in every case, Ctrl-C too, `path` keeps what it held.

    ```python
    with atomic_path("runs/x/model.onnx") as temporary:
        temporary.write_bytes(onnx_bytes)
    ```
    """
    target = Path(path)
    with staged(target) as folder:
        yield folder / target.name
        put_in_place(folder / target.name, target)


def write_atomic(path: str | os.PathLike[str], data: bytes | str) -> None:
    """Write `data` (text as UTF-8) to `path` in one step: after a crash the file is the old one or the new one.

    **Raises:** `PodarError` when the folder cannot be written to or the disk is full.
    """
    with atomic_path(path) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def open_for_torch(path: Path) -> Iterator[IO[bytes]]:
    """Open a file for `torch.save` and its like. What goes wrong is raised when the block ends, and not within.

    PyTorch's writer ends its file when it is destroyed; where it cannot, on a full disk, it ends the whole process
    instead. So it is told that everything was written.
    """
    with path.open("wb") as file:
        patient = _Patient(file)
        yield cast("IO[bytes]", patient)
        patient.flush()
        if patient.error is not None:
            raise patient.error


class _Patient:
    """A file that keeps the first error to itself, and takes what comes after it for written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        if self.error is None:
            try:
                self.file.write(data)
            except OSError as error:
                self.error = error
        return memoryview(data).nbytes

    def flush(self) -> None:
        if self.error is None:
            try:
                self.file.flush()
            except OSError as error:
                self.error = error


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """Lend a hidden folder beside `target`, for the file and what travels with it; `put_in_place` takes them out.

    What is left in the folder goes with it, at the end of the block or, where the process was killed, when the same
    target is written again.

    **Raises:** `PodarError` when the folder cannot be made or the disk is full; other errors of the block pass through.
    """
    if target.is_dir():
        raise PodarError(f"cannot write {target}: it is a folder; name a file.")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder, held = _claimed(target)
    except OSError as error:
        raise PodarError(f"cannot write {target}: {error.strerror or error}.") from error
    try:
        yield folder
    except Exception as error:
        reason = disk_full(error, folder)
        if reason is not None:
            raise PodarError(f"cannot write {target}: {reason}.") from error
        if isinstance(error, OSError) and str(error.filename or "").startswith(str(folder)):
            raise PodarError(f"cannot write {target}: {error.strerror}.") from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if held is not None:
            os.close(held)


def put_in_place(written: Path, target: Path) -> None:
    """Give a finished file of a `staged` folder the mode that `open` gives, and the name `target`."""
    mode = written.parent.stat().st_mode & 0o666  # a folder's mode tells the umask, which cannot be asked for
    if written.stat().st_mode & 0o777 != mode:
        written.chmod(mode)
    with written.open("rb+") as file:
        if target.suffix == ".safetensors":
            _order_notes(file)
            file.flush()
        os.fsync(file.fileno())
    try:
        os.replace(written, target)
    except OSError as error:
        raise PodarError(f"cannot write {target}: {error.strerror}.") from error


def _order_notes(file: IO[bytes]) -> None:
    """Put the notes in a safetensors file's header in alphabetical order: the library writes them in a random one, so
    that the same tensors would make another file each time."""
    length = int.from_bytes(file.read(8), "little")
    if length > _HEADER:
        return
    header = file.read(length)
    try:
        content = json.loads(header)
        notes = content["__metadata__"]
        ordered = {
            "__metadata__": dict(sorted(notes.items())),
            **{k: v for k, v in content.items() if k != "__metadata__"},
        }
    except (ValueError, KeyError, TypeError, AttributeError):
        return  # no such file, or none with notes
    if _compact(content) == header.rstrip(b" "):  # else another writer made it, whose bytes are left alone
        file.seek(8)
        file.write(_compact(ordered).ljust(length))


def _compact(header: Any) -> bytes:
    return json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()


def lock(folder: Path) -> int | None:
    """Keep other processes out of a folder until the descriptor that comes back is closed, or the process ends.

    **Returns:** A descriptor; None where this system, or the folder's file system, knows no locks.

    **Raises:** `BlockingIOError` where another process holds the folder; `FileNotFoundError` where it is gone.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(descriptor), os.stat(folder)):  # removed and made anew since it was opened
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(folder))
    except OSError as error:
        os.close(descriptor)
        if isinstance(error, (BlockingIOError, FileNotFoundError)):
            raise
        return None
    return descriptor


def no_file(path: Path, what: str = "file", pattern: str = "*") -> str:
    """The sentence for a file that is not there, with the file beside it whose name is most like its own.

    **Arguments:** `what`: what it was to be, for the sentence. `pattern`: what such files are called.
    """
    beside = [found.name for found in path.parent.glob(pattern)] if path.parent.is_dir() else []
    return f"there is no {what} {path}{did_you_mean(path.name, beside)}"


def disk_full(error: BaseException, folder: Path) -> str | None:
    """The system's words for a full disk, where that is what an error says or what broke the writing in `folder`.

    Compiled writers wrap the system's error in one of their own, keep only its words, or say nothing of it at all
    (torch.save: "unexpected pos 576"). So where an error says nothing, something more is written to see whether it can
    be.
    """
    words = [os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)]
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in _DISK:
            return seen.strerror or os.strerror(seen.errno)
        said = str(seen)
        if (found := next((reason for reason in words if reason in said), None)) is not None:
            return found
        seen = seen.__cause__ or seen.__context__
    return _cannot_grow(folder)


def _cannot_grow(folder: Path) -> str | None:
    """What the system says to a little more at the end of the largest unfinished file in a folder, or in a new one."""
    largest = max(
        (p for p in folder.rglob("*") if p.is_file() and not p.is_symlink()), key=_size, default=folder / "more"
    )
    unfinished = any(part.endswith(_PART) for part in (folder.name, *largest.relative_to(folder).parts[:-1]))
    probed = largest if unfinished else folder / f".more{_PART}"
    try:
        with probed.open("ab") as file:
            file.write(bytes(_PROBE))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return error.strerror if error.errno in _DISK else None
    finally:
        if not unfinished:
            with suppress(OSError):
                probed.unlink()
    return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _claimed(target: Path) -> tuple[Path, int | None]:
    """An empty hidden folder that is ours alone, and what holds it.

    Its name is always the same, so that what a killed process left there is found and removed by the next; only while
    another process writes the same target, and where there are no locks, it gets a name of its own.
    """
    folder = target.with_name(f".{target.name}{_PART}")
    for _ in range(_ATTEMPTS):
        folder.mkdir(exist_ok=True)
        try:
            held = lock(folder)
        except FileNotFoundError:
            continue  # whoever held it has just removed it
        except BlockingIOError:
            break
        if held is None:
            with suppress(OSError):
                folder.rmdir()
            break
        for left in folder.iterdir():
            shutil.rmtree(left) if left.is_dir() and not left.is_symlink() else left.unlink()
        return folder, held
    folder = target.with_name(f".{target.name}.{secrets.token_hex(4)}{_PART}")
    folder.mkdir()
    return folder, None
