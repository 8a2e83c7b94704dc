"""A full disk, in whichever compiled writer it shows: one sentence, and nothing is lost."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import podar
from podar.data.pictures.writing import write_picture
from podar.data.scenes import compose
from podar.errors import PodarError
from podar.runs import recipe as recipes
from podar.runs import running

NETWORK = """
from torch import nn

def make():
    widths = (nn.Linear(144, 400), nn.ReLU(), nn.Linear(400, 300), nn.ReLU(), nn.Linear(300, 3))
    return nn.Sequential(nn.Flatten(), *widths)
"""


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MB."""
    place = tmp_path / "small"
    place.mkdir()
    mounted = sys.platform == "linux" and shutil.which("mount") and os.geteuid() == 0
    if not mounted or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "none", place], check=False).returncode:
        pytest.skip("a small disk can be made by root on Linux only")
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", place], check=True)


def fill(disk: Path, leaving: int) -> Path:
    """Use up a disk but for some bytes."""
    ballast = disk / "ballast"
    free = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, free.f_bavail * free.f_bsize - leaving)))
    return ballast


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt2"])
def test_exports(small: Path, suffix: str) -> None:
    model = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512)).eval()  # 2 MB
    fill(small, 700_000)
    with pytest.raises(PodarError, match=r"cannot write .*small/model.*: No space left on device\.$"):
        podar.export(model, small / f"model{suffix}", torch.randn(1, 512))
    assert os.listdir(small) == ["ballast"]


def test_a_checkpoint_in_the_middle_of_a_training(small: Path, tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NETWORK)
    labels = np.arange(60) % 3
    np.savez(
        tmp_path / "d.npz", images=np.random.default_rng(0).integers(0, 255, (60, 12, 12), np.uint8), labels=labels
    )
    stages = [{"prune": {"target": "macs=0.7"}}, {"finetune": {"epochs": 4, "batch_size": 16}}]
    plain = {"model": f"{tmp_path}/net.py:make", "data": str(tmp_path / "d.npz"), "stages": stages}
    recipe = recipes.make({**plain, "deterministic": True})
    whole = running.start(recipe, tmp_path / "whole", command="")

    def progress(stage: str, done: int, total: int, info: dict[str, Any]) -> None:
        if info.get("epoch") == 3 and not (small / "ballast").exists():
            fill(small, 100_000)

    with pytest.raises(
        PodarError, match=r"cannot write .*: No space left on device; what was trained is kept: podar res"
    ):
        running.start(recipe, small / "x", command="", progress=progress)
    for _ in range(2):  # as long as there is no room, resuming says so and loses nothing
        with pytest.raises(PodarError, match=r"No space left on device; what was trained is kept: podar resume"):
            running.resume(small / "x", trust=True)
    (small / "ballast").unlink()
    summary = running.resume(small / "x", trust=True)
    assert [epoch["loss"] for epoch in summary["history"]] == [epoch["loss"] for epoch in whole["history"]]
    assert (small / "x" / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()
    assert not (small / "x" / ".work").exists()


def test_pictures(small: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), np.uint8)
    write_picture(small / "there.png", noise[:20, :20])
    before = (small / "there.png").read_bytes()
    ballast = fill(small, 50_000)
    for name in ("there.png", "new.png", "new.jpg"):
        with pytest.raises(PodarError, match=rf"cannot write .*small/{name}: No space left on device\.$"):
            write_picture(small / name, noise)
    assert sorted(os.listdir(small)) == ["ballast", "there.png"] and (small / "there.png").read_bytes() == before
    with pytest.raises(PodarError, match="No space left on device"):
        compose(small / "scenes", scenes=(40, 4), side=96, photographs="fashion-mnist-demo")
    ballast.unlink()
    write_picture(small / "there.png", noise)


def test_only_one_place_writes_pictures() -> None:
    """Pillow leaves half a file on a full disk, and its errors are no sentences."""
    package = Path(podar.__file__).parent
    direct = [p.name for p in package.rglob("*.py") if "fromarray(" in p.read_text() and ".save(" in p.read_text()]
    assert direct == ["writing.py"]
