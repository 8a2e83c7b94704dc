"""Fingerprints: every change of what a run reads shows, and nothing else does."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from podar.trust import fingerprints


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small data set in folders."""
    for name in ("train/cat/1.png", "train/dog/2.png", "labels/1.txt", "big.bin"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode() * 50)
    return tmp_path / "data"


CHANGES: dict[str, Callable[[Path], object]] = {
    "a label edited": lambda d: (d / "labels/1.txt").write_text("1 0.5"),
    "a byte of a picture": lambda d: (d / "train/cat/1.png").write_bytes(b"T" + b"train/cat/1.png" * 50),
    "a picture moved": lambda d: (d / "train/cat/1.png").rename(d / "train/dog/1.png"),
    "a picture renamed": lambda d: (d / "train/cat/1.png").rename(d / "train/cat/3.png"),
    "a picture added": lambda d: (d / "train/cat/9.png").write_bytes(b""),
    "a picture removed": lambda d: (d / "train/dog/2.png").unlink(),
    "two contents exchanged": lambda d: _exchange(d / "train/cat/1.png", d / "train/dog/2.png"),
}
NO_CHANGES: dict[str, Callable[[Path], object]] = {
    "touched": lambda d: os.utime(d / "labels/1.txt", (1, 1)),
    "a library's cache": lambda d: (d / "labels.cache").write_bytes(b"1"),
    "hidden files": lambda d: (d / ".DS_Store").write_bytes(b"1"),
    "compiled code": lambda d: (_made(d / "__pycache__") / "net.pyc").write_bytes(b"1"),
    "the run itself": lambda d: (_made(d / "run") / "model.safetensors").write_bytes(b"1"),
    "copied away and back": lambda d: _copied(d),
}


def _exchange(first: Path, second: Path) -> None:
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)


def _copied(folder: Path) -> None:
    shutil.copytree(folder, folder.parent / "copy")
    shutil.rmtree(folder)
    (folder.parent / "copy").rename(folder)


def _made(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_noticed(folder: Path, change: str) -> None:
    before = fingerprints.fingerprints_of([folder], folder / "run")
    assert fingerprints.differing(before, folder / "run") == {}
    CHANGES[change](folder)
    told = fingerprints.differing(before, folder / "run")
    assert list(told) == [str(folder)] and told[str(folder)].startswith("changed")


@pytest.mark.parametrize("change", NO_CHANGES)
def test_what_changes_nothing_is_not(folder: Path, change: str) -> None:
    before = fingerprints.fingerprints_of([folder], folder / "run")
    NO_CHANGES[change](folder)
    assert fingerprints.differing(before, folder / "run") == {}


def test_of_big_files_and_folders_a_sample_and_the_time_count(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, few in (("_WHOLE", 300), ("_ALL", 300)):
        with monkeypatch.context() as patched:
            patched.setattr(fingerprints, name, few)
            before = fingerprints.fingerprints_of([folder], folder / "run")
            status = (folder / "labels/1.txt").stat()
            (folder / "labels/1.txt").write_bytes(b"X" * status.st_size)
            os.utime(folder / "labels/1.txt", (status.st_atime, status.st_mtime + 1))
            assert fingerprints.differing(before, folder / "run")


def test_what_is_gone_is_said_and_a_link_in_a_circle_ends(folder: Path) -> None:
    (folder / "circle").symlink_to(folder, target_is_directory=True)
    before = fingerprints.fingerprints_of([folder, folder / "big.bin", folder / "not there"], folder / "run")
    assert list(before) == [str(folder), str(folder / "big.bin")]
    (folder / "big.bin").unlink()
    told = fingerprints.differing(before, folder / "run")
    assert told[str(folder / "big.bin")] == "is no longer there" and "files then" in told[str(folder)]
