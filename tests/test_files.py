"""A file is the old one or the whole new one, whatever breaks in between."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from podar.errors import PodarError
from podar.files import atomic_path, no_file, put_in_place, staged, write_atomic


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
        assert temporary.parent.parent == tmp_path and temporary.parent.name.startswith(".")
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


WRITERS = {
    "safetensors": lambda path: save_file({"a": torch.randn(300_000)}, str(path)),
    "torch": lambda path: torch.save({"a": torch.randn(300_000)}, path),
    "torch, old": lambda path: torch.save({"a": torch.randn(300_000)}, path, _use_new_zipfile_serialization=False),
    "bytes": lambda path: path.write_bytes(bytes(1_200_000)),
}


@pytest.mark.parametrize("writer", WRITERS)
def test_whoever_writes_a_file_it_gets_the_ordinary_mode(tmp_path, writer: str) -> None:
    (tmp_path / "plain").write_text("x")
    for _ in range(2):  # a new file, and one that is replaced
        with atomic_path(tmp_path / "a") as temporary:
            WRITERS[writer](temporary)
        assert (tmp_path / "a").stat().st_mode == (tmp_path / "plain").stat().st_mode


@pytest.mark.skipif(sys.platform == "win32", reason="file size limits are a thing of Unix")
@pytest.mark.parametrize("writer", WRITERS)
def test_compiled_writers_on_a_full_disk_are_one_sentence(tmp_path, writer: str) -> None:
    code = f"""
import resource, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent.parent)!r})
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from podar.files import atomic_path
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
path = Path(sys.argv[1])
try:
    with atomic_path(path) as temporary:
        {{
            "safetensors": lambda: save_file({{"a": torch.randn(300_000)}}, str(temporary)),
            "torch": lambda: torch.save({{"a": torch.randn(300_000)}}, temporary),
            "torch, old": lambda: torch.save([torch.randn(300_000)], temporary, _use_new_zipfile_serialization=False),
            "bytes": lambda: temporary.write_bytes(bytes(1_200_000)),
        }}[sys.argv[2]]()
except Exception as error:
    print(type(error).__name__, error)
"""
    (tmp_path / "a").write_text("old")
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "a"), writer], capture_output=True, text=True, timeout=120
    )
    assert done.stdout.startswith(f"PodarError cannot write {tmp_path / 'a'}: File too large."), done
    assert (tmp_path / "a").read_text() == "old" and os.listdir(tmp_path) == ["a"]


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path) -> None:
    code = "import os, sys; from podar.files import atomic_path\n"
    code += "with atomic_path(sys.argv[1]) as part: part.write_text('half'); (part.parent / 'm').mkdir(); os._exit(9)"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a.txt")], env=environment, timeout=60)
    assert len(os.listdir(tmp_path)) == 1
    write_atomic(tmp_path / "a.txt", "whole")
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "whole"


def test_two_that_write_the_same_file_at_once_do_not_meet(tmp_path) -> None:
    with atomic_path(tmp_path / "a.txt") as first, atomic_path(tmp_path / "a.txt") as second:
        first.write_text("first")
        second.write_text("second")
        assert first != second
    assert os.listdir(tmp_path) == ["a.txt"] and (tmp_path / "a.txt").read_text() == "first"


def test_only_what_was_put_in_place_stays(tmp_path) -> None:
    with staged(tmp_path / "model.xml") as folder:
        for name in ("model.xml", "model.bin", "step.onnx"):
            (folder / name).write_text(name)
        for name in ("model.bin", "model.xml"):
            put_in_place(folder / name, tmp_path / name)
    assert sorted(os.listdir(tmp_path)) == ["model.bin", "model.xml"]


def test_the_same_tensors_make_the_same_safetensors_file(tmp_path) -> None:
    notes = {f"note {n} é\n": str(n) for n in range(20)}  # which the library would write in a random order
    for name in ("a", "b"):
        with atomic_path(tmp_path / f"{name}.safetensors") as temporary:
            save_file({"w": torch.arange(5), "__x__": torch.zeros(2)}, str(temporary), metadata=notes)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    with safe_open(tmp_path / "a.safetensors", framework="pt") as file:
        assert file.metadata() == notes and torch.equal(file.get_tensor("w"), torch.arange(5))


def test_a_missing_file_is_said_with_the_one_that_is_called_most_like_it(tmp_path: Path) -> None:
    (tmp_path / "{}").mkdir()
    for name in ("net.py", "notes.txt"):
        (tmp_path / "{}" / name).touch()
    file = tmp_path / "{}" / "nets.py"
    assert no_file(file, "script") == f"there is no script {file}; did you mean net.py?"
    assert no_file(file.with_name("nots.txt"), pattern="*.py").endswith("nots.txt.")
    assert no_file(tmp_path / "away" / "net.py") == f"there is no file {tmp_path / 'away' / 'net.py'}."
