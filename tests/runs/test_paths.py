"""Paths that a run names: absolute where they are paths, left alone where they are names."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from podar.runs import recipe as recipes
from podar.runs.paths import absolute, files_of


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a bit of everything; podar stands in it."""
    for name in (
        "net.py",
        "w.pt",
        "yolo26n.pt",
        "teacher.pt",
        "own.yaml",
        "saved/plan.json",
        "saved/model.safetensors",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    for name in ("digits", "demo", "photographs/cat", "hf", "images/train", "labels/train"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "hf" / "config.json").write_text("{}")
    (tmp_path / "data.yaml").write_text("path: .\ntrain: images/train\nval: [images/train]\nnames: {0: a}\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def recipe(**parts: Any) -> recipes.Recipe:
    return recipes.make({"model": "demo", "stages": [{"prune": {"target": "macs=0.5"}}], **parts})


@pytest.mark.parametrize(
    ("model", "is_path"),
    [
        ("net.py:make", True), ("saved", True), ("./saved/", True), ("yolo26n.pt", True), ("own.yaml", True),
        ("transformers:hf", True), ("demo", False), ("timm:resnet18", False), ("yolo11n.yaml", False),
        ("torchvision:digits", False), ("gone.py:make", False),
    ],
)  # fmt: skip
def test_models(here: Path, model: str, is_path: bool) -> None:
    found = absolute(recipe(model=model)).model
    assert (str(here) in found) if is_path else (found == model)
    assert absolute(recipe(model=found)).model == found, "what is absolute stays"


@pytest.mark.parametrize(("data", "is_path"), [("photographs", True), ("data.yaml", True), ("digits", False)])
def test_data(here: Path, data: str, is_path: bool) -> None:
    assert absolute(recipe(data=data)).data == (str(here / data) if is_path else data)


def test_weights_and_settings(here: Path) -> None:
    tuned = {"finetune": {"settings": {"distill_model": "teacher.pt", "optimizer": "digits", "lr0": 0.1}}}
    found = absolute(recipe(weights="w.pt", data="photographs", stages=[tuned]))
    assert found.weights == str(here / "w.pt")
    assert found.stages[0].model_dump()["settings"] == {
        "distill_model": str(here / "teacher.pt"),
        "optimizer": "digits",
        "lr0": 0.1,
    }


def test_files_that_a_run_reads(here: Path) -> None:
    source: Any = SimpleNamespace(spec={"model": str(here / "net.py") + ":make"})
    tuned = {"finetune": {"settings": {"distill_model": "teacher.pt"}}}
    asked = absolute(recipe(model="saved", weights="w.pt", data="data.yaml", stages=[tuned]))
    names = {str(path.relative_to(here)) for path in files_of(asked, source)}
    assert {"saved/model.safetensors", "saved/plan.json", "net.py", "w.pt", "teacher.pt", "data.yaml"} <= names
    assert {"images/train", "labels/train"} <= names, "a label is read, though the YAML does not name it"
