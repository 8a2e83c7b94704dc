"""A file is the old one or the whole new one, whatever breaks in between."""

from __future__ import annotations

import errno
import os
import stat

import pytest

from podar.errors import PodarError
from podar.files import atomic_path, write_atomic


def test_text_and_bytes_and_new_folders(tmp_path) -> None:
    write_atomic(tmp_path / "a" / "b" / "c.txt", "Grüße")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == "Grüße".encode()
    write_atomic(tmp_path / "a" / "b" / "c.txt", b"\x00\x01")
    assert (tmp_path / "a" / "b" / "c.txt").read_bytes() == b"\x00\x01"
    assert os.listdir(tmp_path / "a" / "b") == ["c.txt"]


def test_the_file_has_ordinary_permissions(tmp_path) -> None:
    write_atomic(tmp_path / "podar.txt", "x")
    (tmp_path / "plain.txt").write_text("x")
    mode = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("podar.txt", "plain.txt")]
    assert mode[0] == mode[1]


@pytest.mark.parametrize("broken", [RuntimeError("boom"), KeyboardInterrupt(), SystemExit(3)])
def test_a_broken_write_leaves_the_old_file_and_no_other(tmp_path, broken: BaseException) -> None:
    path = tmp_path / "model.onnx"
    write_atomic(path, "old")
    with pytest.raises(type(broken)), atomic_path(path) as temporary:
        assert temporary.suffix == ".onnx"
        assert temporary.parent == tmp_path
        temporary.write_text("half of the n")
        raise broken
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),  # as safetensors says it
    ],
)
def test_a_full_disk_is_one_sentence(tmp_path, error: Exception) -> None:
    message = r"cannot write .*plan\.json: No space left on device\."
    with pytest.raises(PodarError, match=message), atomic_path(tmp_path / "plan.json"):
        raise error
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full on this system")
def test_a_really_full_device(tmp_path) -> None:
    with pytest.raises(PodarError, match="No space left on device"), atomic_path(tmp_path / "model.bin") as temporary:
        temporary.unlink()
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"x")
    assert os.listdir(tmp_path) == []


def test_other_errors_of_the_block_pass_through(tmp_path) -> None:
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "x"):
        (tmp_path / "missing").read_text()


def test_unwritable_places_are_named(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PodarError, match=r"cannot write .*file/x\.json: "):
        write_atomic(tmp_path / "file" / "x.json", "{}")
    with pytest.raises(PodarError, match=r"is a folder; name a file"):
        write_atomic(tmp_path, "{}")
