"""Folders that podar saved: the model comes back exactly, from any kind of source, and runs nothing unasked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import podar
from podar.errors import PodarError
from podar.model.inputs import call
from podar.model.tensors import tensors_in
from podar.sources.naming import complete_model
from podar.sources.opening import open_source

NET = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3))
"""


def pruned(name: str, folder: Path) -> torch.nn.Module:
    """Prune half of the channels of a source and save it as a run does."""
    source = open_source(name)
    result = podar.prune(source.build(), source.inputs(), "channels=0.5")
    podar.save(result.model, folder)
    (folder / "source.json").write_text(json.dumps(source.spec))
    return result.model


@pytest.mark.parametrize("name", ["torchvision:shufflenet_v2_x0_5", "timm:resnet10t", "yolo26n.yaml"])
def test_it_comes_back_exactly_and_can_be_pruned_again(tmp_path: Path, name: str) -> None:
    model = pruned(name, tmp_path / "once")
    source = open_source(str(tmp_path / "once"))
    again, inputs = source.build(), source.inputs()
    with torch.no_grad():
        expected, found = call(model.eval(), inputs), call(again, inputs)
    for a, b in zip(tensors_in(expected), tensors_in(found)):
        assert torch.equal(a, b)
    twice = pruned(str(tmp_path / "once"), tmp_path / "twice")
    assert count(twice) < count(again) < count(source.dense())
    assert count(open_source(str(tmp_path / "twice")).build()) == count(twice)


def count(model: torch.nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def test_the_folder_as_weights_of_its_architecture(tmp_path: Path) -> None:
    model = pruned("timm:resnet10t", tmp_path)
    (tmp_path / "source.json").unlink()
    assert count(open_source("timm:resnet10t", weights=tmp_path).build()) == count(model)
    with pytest.raises(PodarError, match="holds no source.json.*as --weights"):
        open_source(str(tmp_path))


def test_a_python_file_named_by_a_folder_runs_only_with_trust(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(NET)
    model = pruned(f"{tmp_path}/net.py:net", tmp_path / "run")
    with pytest.raises(PodarError, match=r"was made from .*net\.py:net, and building it runs that file: add --trust"):
        open_source(str(tmp_path / "run"))
    assert count(open_source(str(tmp_path / "run"), trust=True).build()) == count(model)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"model": 3}', '{"model": "timm:resnet10t", "model_args": []}'])
def test_a_damaged_source_json(tmp_path: Path, text: str) -> None:
    pruned("timm:resnet10t", tmp_path)
    (tmp_path / "source.json").write_text(text)
    with pytest.raises(PodarError, match=r"source\.json is damaged"):
        open_source(str(tmp_path))


def test_what_makes_no_sense_with_a_folder(tmp_path: Path) -> None:
    pruned("timm:resnet10t", tmp_path)
    with pytest.raises(PodarError, match="--model-arg has no meaning here"):
        open_source(str(tmp_path), model_args={"num_classes": 3})
    (tmp_path / "source.json").write_text('{"model": "something:else"}')
    with pytest.raises(PodarError, match="names the model 'something:else', which podar does not find"):
        open_source(str(tmp_path))
    with pytest.raises(PodarError, match="holds no pruned model"):
        open_source(str(tmp_path.parent))


def test_completion_offers_saved_folders(tmp_path: Path) -> None:
    pruned("timm:resnet10t", tmp_path / "run")
    (tmp_path / "other").mkdir()
    assert complete_model(f"{tmp_path}/") == [f"{tmp_path}/run"]
