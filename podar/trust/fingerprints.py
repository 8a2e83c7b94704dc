"""Fingerprints of the files that a run reads, by which a change between its break and its resumption is noticed."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

_WHOLE = 64 << 20  # bytes up to which a file is read whole
_ALL = 512 << 20  # bytes read of all files of a folder together; beyond, size and time of change must do
_PIECE = 1 << 20
# What libraries write beside data that they only read.
_CACHES = (".cache", ".lock", ".pyc")


def fingerprints_of(paths: Iterable[str | Path], leaving_out: Path) -> dict[str, dict[str, Any]]:
    """A fingerprint of each file or folder that is there, by its absolute path.

    It depends on names, sizes and contents. Only where a file has more than 64 MB, or a folder more than 512, does a
    sample of the contents and the time of the last change stand for the rest. Hidden files and caches do not count.

    **Arguments:** `leaving_out`: a folder that does not count, wherever it lies: the run's own.

    **Returns:** Path → `{"files": how many, "bytes": their size, "hash": of everything}`; plain data.
    """
    found: dict[str, dict[str, Any]] = {}
    for path in paths:
        absolute = Path(os.path.abspath(Path(path).expanduser()))
        if absolute.exists() and str(absolute) not in found:
            found[str(absolute)] = _of(absolute, leaving_out.resolve())
    return found


def differing(before: Mapping[str, Mapping[str, Any]], leaving_out: Path) -> dict[str, str]:
    """What is no longer as `take` found it: path → in what way, in a few words."""
    told: dict[str, str] = {}
    now = fingerprints_of(before, leaving_out)
    for path, was in before.items():
        if path not in now:
            told[path] = "is no longer there"
        elif now[path]["files"] != was["files"]:
            told[path] = f"changed ({was['files']:,} files then, {now[path]['files']:,} now)"
        elif now[path] != was:
            told[path] = "changed"
    return told


def _of(path: Path, leaving_out: Path) -> dict[str, Any]:
    whole = hashlib.blake2b(digest_size=16)
    files = size = 0
    left = _ALL
    for name, file in _files(path, leaving_out):
        try:
            status = file.stat()
            if not stat.S_ISREG(status.st_mode):
                continue
            content, read = _content(file, status, left)
        except OSError as error:
            content, read, status = f"unreadable: {error.errno}".encode(), 0, None
        left -= read
        files += 1
        size += status.st_size if status else 0
        for part in (os.fsencode(name), content):
            whole.update(len(part).to_bytes(8, "little") + part)
    return {"files": files, "bytes": size, "hash": whole.hexdigest()}


def _files(path: Path, leaving_out: Path) -> Iterator[tuple[str, Path]]:
    """Files under a path with their names from there, always in the same order; a file is found as itself."""
    if not path.is_dir():
        yield path.name, path
        return
    seen: set[tuple[int, int]] = set()
    for folder, folders, names in os.walk(path, followlinks=True):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen or Path(folder).resolve() == leaving_out:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        folders[:] = sorted(name for name in folders if name[0] != "." and name != "__pycache__")
        for name in sorted(names):
            if name[0] != "." and not name.endswith(_CACHES):
                file = Path(folder) / name
                yield str(file.relative_to(path)), file


def _content(file: Path, status: os.stat_result, left: int) -> tuple[bytes, int]:
    """A hash of what a file holds, or of a sample with the time of the last change; and how much was read for it."""
    size = status.st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=16)
    if size <= min(_WHOLE, left):
        with file.open("rb") as opened:
            while piece := opened.read(_PIECE):
                digest.update(piece)
        return digest.digest(), size
    digest.update(str(status.st_mtime_ns).encode())
    if size <= _WHOLE:  # of many small files, the budget is used up
        return digest.digest(), 0
    places = (0, size // 2, max(0, size - _PIECE))
    with file.open("rb") as opened:
        for place in places:
            opened.seek(place)
            digest.update(opened.read(_PIECE))
    return digest.digest(), len(places) * _PIECE
