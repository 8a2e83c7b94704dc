"""Proof that a data source is one thing: a toy declared here alone is loaded, listed, and trained on in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from podar import cli, data
from podar.data import register
from podar.data.pictures.pixels import Held
from podar.data.register import Found, Part
from podar.errors import PodarError, UsageError

FORM = "toy-stripes"
NETS = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 2))
"""


def declare(**given: Any) -> None:
    """The declaration, as a file of podar/data would hold it."""

    @register.data_source(FORM, help="a toy", accepts=lambda spec: spec == FORM, names=(FORM,), **given)
    def read(spec: str, image_size: int | None, channels: int | None) -> Found:
        labels = torch.arange(60) % 2
        images = torch.zeros(60, 1, 8, 8, dtype=torch.uint8)
        images[labels == 0, :, ::2], images[labels == 1, :, :, ::2] = 200, 200
        return Found(spec, {"all": Part(Held(images), labels, (1, 8, 8))}, ("across", "down"))


@pytest.fixture
def toy() -> Iterator[None]:
    declare()
    yield
    register.unregister(FORM)


def test_it_is_loaded_and_listed(toy: None) -> None:
    found = data.load(FORM)
    assert (len(found.train), len(found.test), found.classes) == (48, 12, ("across", "down"))
    assert data.complete("toy") == [FORM]
    with pytest.raises(PodarError, match=r"did you mean toy-stripes\?"):
        data.load("toy-stripe")
    with pytest.raises(PodarError, match=r"names are .*toy-stripes"):
        data.load("qqqqqq")


def test_without_the_register_nothing_knows_it() -> None:
    assert FORM not in data.complete("toy")
    with pytest.raises(PodarError, match="there is no data set or path 'toy-stripes'"):
        data.load(FORM)
    for file in Path(register.__file__).parents[1].rglob("*.py"):
        assert "toy-stripes" not in file.read_text(encoding="utf-8"), file


def test_a_run_trains_on_it(toy: None, tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    out = tmp_path / "run"
    asked = (
        f"prune {tmp_path}/nets.py:net --data toy-stripes --target macs=0.6 --epochs 1 --precision fp32 --multiple-of 1"
    )
    assert not cli.app([*asked.split(), "--quiet", "--out", str(out)], standalone_mode=False, prog_name="podar")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["facts"]["data"] == "toy-stripes: 48 training and 12 test images of 1×8×8, 2 classes"
    assert {picture["label"] for picture in summary["pictures"]} == {"across", "down"}
    assert len(summary["history"]) == 1


def test_one_that_takes_anything_is_asked_last(tmp_path: Path) -> None:
    """Any folder is a folder of pictures to podar's own source; a source that knows such folders better comes first."""
    register.data_source("TOYS", help="a toy", accepts=lambda spec: spec == str(tmp_path))(lambda *_: Found("", {}, ()))
    try:
        found = register.find_data_source(str(tmp_path))
        assert found is not None and found.form == "TOYS"
    finally:
        register.unregister("TOYS")


def test_help_lists_it_and_completion_waits_for_no_torch() -> None:
    code = (
        "from podar.data import register; import sys\n"
        "name = 'toy-stripes'\n"
        "register.data_source(name, help='a toy', accepts=lambda spec: spec == name, names=(name,))(print)\n"
        "from podar.data import complete; assert 'toy-stripes' in complete('toy')\n"
        "from podar.cli import app\n"
        "try: app(['prune', '--help'], prog_name='podar')\n"
        "finally: assert 'torch' not in sys.modules, 'torch was imported'\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "toy-stripes: a toy." in " ".join(done.stdout.replace("│", " ").split()), done.stdout + done.stderr
    assert "was imported" not in done.stderr


def test_a_missing_package_is_named_with_its_extra() -> None:
    declare(package="no_such_package_xyz", extra="toys")
    try:
        with pytest.raises(PodarError, match=r'needs the package no_such_package_xyz, .* pip install "podar\[toys\]"'):
            data.load(FORM)
    finally:
        register.unregister(FORM)


def test_two_sources_are_written_in_two_ways(toy: None) -> None:
    with pytest.raises(UsageError, match="two data sources are written 'toy-stripes'"):
        declare()
