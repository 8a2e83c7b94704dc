"""Checkpoints of a training: round trip, and one sentence for what is damaged or another's."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from podar.errors import PodarError
from podar.recover import checkpoints


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    state = {"signature": {"epochs": 3}, "model": {"weight": torch.randn(3)}}
    checkpoints.save(tmp_path / "t.pt", state)
    loaded = checkpoints.load(tmp_path / "t.pt", {"epochs": 3})
    assert loaded is not None and torch.equal(loaded["model"]["weight"], state["model"]["weight"])
    assert [path.name for path in tmp_path.iterdir()] == ["t.pt"]


def test_no_file_is_no_checkpoint(tmp_path: Path) -> None:
    assert checkpoints.load(tmp_path / "t.pt", {}) is None


def test_another_trainings_checkpoint_is_refused(tmp_path: Path) -> None:
    checkpoints.save(tmp_path / "t.pt", {"signature": {"epochs": 3, "seed": 0}})
    with pytest.raises(PodarError, match=r"another training \(epochs 3 there, 4 here\): remove it"):
        checkpoints.load(tmp_path / "t.pt", {"epochs": 4, "seed": 0})


@pytest.mark.parametrize("kind", ["text", "empty", "cut off", "foreign"])
def test_a_damaged_or_foreign_file_is_one_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "t.pt"
    checkpoints.save(path, {"signature": {}, "model": torch.randn(1000)})
    if kind == "foreign":
        torch.save({"weight": torch.zeros(2)}, path)
    else:
        whole = path.read_bytes()
        path.write_bytes({"text": b"hello there", "empty": b"", "cut off": whole[: len(whole) // 2]}[kind])
    with pytest.raises(PodarError, match=r"t\.pt cannot be read .*: remove it to start anew") as caught:
        checkpoints.load(path, {})
    assert "\n" not in str(caught.value)
