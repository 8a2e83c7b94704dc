"""Recipes: YAML in and out, and one clear sentence for everything that is wrong with one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from podar.errors import PodarError, UsageError
from podar.runs import recipe as recipes
from podar.stages.export import Export
from podar.stages.finetune import Finetune
from podar.stages.measure import Measure
from podar.stages.prune import Prune

CUT = {"prune": {"target": "macs=0.5"}}


def test_a_recipe_is_read_from_yaml(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        """
model: timm:resnet18
model_args: {num_classes: 10}
data: photographs/
stages:
  - prune: {target: {macs: 0.5}, ratios: {"layer1*": 0.75}, protect: [conv1]}
  - finetune: {epochs: 3, lr: 0.01}
  - export: {formats: [onnx]}
  - measure
"""
    )
    recipe = recipes.read(path)
    assert recipe.model_args == {"num_classes": 10}
    assert Export(formats=("onnx",)) in recipe.stages
    assert recipe.stages == (
        Prune.model_validate({"target": "macs=0.5", "ratios": {"layer1*": 0.75}, "protect": ("conv1",)}),
        Finetune(epochs=3, lr=0.01),
        Export(formats=("onnx",)),
        Measure(),
    )


def test_a_recipe_survives_yaml_and_json(tmp_path: Path) -> None:
    recipe = recipes.make(
        {
            "name": "x",
            "model": "m.py:f",
            "data": "d.npz",
            "seed": 3,
            "stages": [
                CUT,
                {"finetune": {"epochs": 2}},
                {"prune": {"target": "macs=0.8", "scope": "local"}},
                "measure",
            ],
        }
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(recipes.to_yaml(recipe))
    assert recipes.read(path) == recipe
    assert "importance" not in path.read_text(), "what is left at its default is not written"
    assert recipes.make(recipe.model_dump(mode="json")) == recipe


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stages": []}, "stages"),
        ({"model": None}, "model is None"),
        ({"stges": []}, "stges is no option; did you mean stages?"),
        ({"stages": [{"prun": {}}]}, "there is no stage 'prun'; did you mean prune?"),
        ({"stages": [{"prune": {"targt": "macs=0.5"}}]}, "prune: targt is no option; did you mean target?"),
        ({"stages": [{"prune": {"scope": "local"}}]}, "prune: target is missing"),
        ({"stages": ["prune"]}, "prune: target is missing"),
        ({"stages": [{"prune": {"ratios": {"a": 0.5}, "depth": True}}]}, "depth weighs whole blocks"),
        ({"stages": [{"prune": {"target": "macs=0.5", "multiple_of": 0}}]}, "at least 1, or auto"),
        ({"stages": [{"prune": {"target": "macs=0.5", "multiple_of": "eight"}}]}, "multiple_of is 'eight'"),
        (
            {"stages": [{"prune": {"target": "macs=0.5", "scoop": "local"}}]},
            "prune: scoop is no option; did you mean scope?",
        ),
        ({"stages": [CUT, {"finetune": {"epochs": 0}}]}, "finetune: epochs is 0, input should be greater"),
        ({"stages": [CUT, {"finetune": {"epochs": "many"}}]}, "finetune: epochs is 'many'"),
        ({"stages": [CUT, "finetune"], "data": None}, "finetune needs a data set; add data: NAME"),
        ({"stages": [{"export": {"formats": ["onnx"]}}, CUT]}, "export comes before a stage that changes the model"),
        ({"stages": [CUT, "measure", {"export": {"formats": ["onnx"]}}]}, "measure comes before export"),
        ({"stages": [CUT, "measure", "measure"]}, "measure stands twice"),
        ({"stages": {"prune": {}}}, "stages is a list"),
        ({"stages": [3]}, "3 is no stage"),
        ({"stages": [{"export": {"formats": []}}]}, "export: formats is"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    good = {"model": "timm:resnet18", "data": "x.npz", "stages": [CUT]}
    with pytest.raises(UsageError) as caught:
        recipes.make({**good, **change}, of="r.yaml")
    assert str(caught.value).startswith("r.yaml: ")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_text_may_stand_for_several() -> None:
    stages = [
        {"prune": {"ratios": {"layer1.*": 0.5}, "protect": "fc", "only": "layer*", "outputs": "logits"}},
        {"prune": {"target": "macs=0.5", "multiple_of": 4}},
        {"sparsify": {"amount": 0.5, "protect": "fc"}},
        {"export": {"formats": "onnx"}},
    ]
    recipe = recipes.make({"model": "timm:resnet18", "stages": stages})
    asked = {"ratios": {"layer1.*": 0.5}, "protect": ("fc",), "only": ("layer*",), "outputs": ("logits",)}
    assert recipe.stages[0] == Prune.model_validate(asked)
    assert str(recipe.stages[0]) == "layer1.*=0.5" and str(recipe.stages[1]) == "macs=0.5"
    assert Export(formats=("onnx",)) in recipe.stages


def test_a_missing_model_is_named() -> None:
    with pytest.raises(UsageError, match="model is missing"):
        recipes.make({"stages": [CUT]})


def test_a_missing_recipe_names_the_nearest(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("")
    with pytest.raises(PodarError, match=r"there is no recipe .*recpie.yaml; did you mean .*recipe.yaml\?"):
        recipes.read(tmp_path / "recpie.yaml")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "cannot be read"), ("- 1", "is no mapping"), ("", "is no mapping")]
)
def test_what_is_no_recipe_is_said(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text)
    with pytest.raises(PodarError, match=message):
        recipes.read(path)


def test_a_recipe_runs_no_code_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(f"model: !!python/object/apply:pathlib.Path.touch [{tmp_path / 'ran'}]\nstages: [measure]")
    with pytest.raises(PodarError, match="cannot be read"):
        recipes.read(path)
    assert not (tmp_path / "ran").exists()
