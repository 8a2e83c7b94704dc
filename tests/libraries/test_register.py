"""Proof that a model library is one thing: a toy declared here alone is opened, listed, pruned and trained in a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from podar import cli
from podar.errors import PodarError, UsageError
from podar.libraries import register
from podar.model.inputs import call
from podar.runs import consent
from podar.runs import recipe as recipes
from podar.sources.naming import complete_model
from podar.sources.opening import open_source
from podar.workshops import PodarWorkshop, Source

FORM = "toy:NAME"


def net(classes: int) -> nn.Module:
    """A small network for pictures of one channel."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3),
        nn.BatchNorm2d(16),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(64, classes),
    ).eval()


def declare(**given: Any) -> None:
    """The declaration, as a file of podar/libraries would hold it."""

    @register.library(
        FORM,
        help="a toy",
        accepts=lambda model: model.startswith("toy:"),
        complete=lambda incomplete: ["toy:net"],
        **given,
    )
    def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
        def make() -> nn.Module:
            return net(**{"classes": 10, **model_args})

        return Source(
            called=model,
            spec={"model": model, "model_args": model_args},
            make=make,
            dense=make,
            example_inputs=lambda _: torch.zeros(1, 1, 8, 8),
            workshop=PodarWorkshop(),
            notes=(f"{model} is a toy.",),
        )


@pytest.fixture
def toy() -> Iterator[None]:
    declare()
    yield
    register.unregister(FORM)


def test_it_is_opened_and_listed(toy: None) -> None:
    source = open_source("toy:net", model_args={"classes": 7})
    assert (source.name, source.notes) == ("net", ("toy:net is a toy.",))
    assert call(source.build(), source.inputs()).shape == (1, 7)
    assert complete_model("toy") == ["toy:net"]
    with pytest.raises(PodarError, match=r"write one of .*toy:NAME"):
        open_source("qqqqqq")
    with pytest.raises(PodarError, match=r"there is no model 'nett'; did you mean toy:net\?"):
        open_source("nett")


def test_without_the_register_nothing_knows_it() -> None:
    assert complete_model("toy") == []
    with pytest.raises(PodarError, match="there is no kind of model 'toy'"):
        open_source("toy:net")
    for file in Path(register.__file__).parents[1].rglob("*.py"):
        assert "toy:" not in file.read_text(encoding="utf-8"), file


def test_the_command_prunes_and_trains_it(toy: None, tmp_path: Path) -> None:
    out = tmp_path / "run"
    asked = "prune toy:net --data digits --target macs=0.6 --epochs 1 --precision fp32 --quiet --multiple-of 1 --out"
    assert not cli.app([*asked.split(), str(out)], standalone_mode=False, prog_name="podar")
    summary = json.loads((out / "summary.json").read_text())
    assert summary["title"] == "net on digits"
    assert "Toy:net is a toy." in summary["notes"] or "toy:net is a toy." in summary["notes"]
    assert abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.6) < 0.05
    assert len(summary["history"]) == 1
    again = open_source(str(out))  # the folder names its library
    assert sum(p.numel() for p in again.build().parameters()) == summary["after"]["params"]


def test_help_lists_it() -> None:
    code = (
        "from tests.libraries.test_register import declare; declare()\n"
        "from podar.cli import app; app(['inspect', '--help'], prog_name='podar')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "toy:NAME: a toy." in " ".join(done.stdout.replace("│", " ").split()), done.stdout + done.stderr


def test_a_missing_package_is_named_with_its_extra() -> None:
    declare(package="no_such_package_xyz", extra="toys")
    try:
        with pytest.raises(PodarError, match=r'needs the package no_such_package_xyz, .* pip install "podar\[toys\]"'):
            open_source("toy:net")
    finally:
        register.unregister(FORM)


def test_one_that_runs_code_asks_for_consent() -> None:
    declare(runs_code=True)
    try:
        recipe = recipes.make({"model": "toy:net", "stages": [{"prune": {"target": "macs=0.5"}}]})
        with pytest.raises(PodarError, match="add --trust"):
            consent.check_recipe(recipe, "r.yaml", trust=False)
    finally:
        register.unregister(FORM)


def test_two_libraries_are_written_in_two_ways(toy: None) -> None:
    with pytest.raises(UsageError, match="two model libraries are written 'toy:NAME'"):
        declare()
