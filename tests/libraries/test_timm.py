"""timm models by name."""

from __future__ import annotations

import pytest
import torch

from podar.errors import PodarError
from podar.libraries import find_library
from podar.libraries.timm import open_model
from podar.model.inputs import call


@pytest.mark.parametrize("name", ["deit_tiny_patch16_224", "mobilevit_xxs", "resnet18.a1_in1k"])
def test_models_are_built_the_same_every_time_and_run(name: str) -> None:
    source = open_model(f"timm:{name}", {"num_classes": 5}, False)
    state = torch.get_rng_state()
    first, second = source.make(), source.make()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    assert call(first, source.inputs()).shape == (1, 5)
    assert "random weights" in source.notes[0]


def test_inputs_follow_the_arguments() -> None:
    source = open_model("timm:resnet18", {"in_chans": 1}, False)
    assert source.inputs().shape == (1, 1, 224, 224)
    source = open_model("timm:vit_tiny_patch16_224", {"img_size": 64}, False)
    assert source.inputs().shape == (1, 3, 64, 64)


@pytest.mark.parametrize(
    ("name", "model_args", "message"),
    [
        ("timm:resnet81", {}, r"timm has no model 'resnet81'; did you mean timm:resnet18\?"),
        ("timm:resnet18", {"num_clases": 3}, r"with num_clases=3: it knows no argument 'num_clases'; .* num_classes\?"),
        ("timm:resnet18", {"num_classes": "ten"}, r"timm:resnet18 cannot be built with num_classes='ten': "),
        ("timm:resnet18", {"pretrained": True}, r"timm:resnet18 cannot be built: "),  # the tests have no network
    ],
)
def test_what_cannot_be_built(name: str, model_args: dict[str, object], message: str) -> None:
    with pytest.raises(PodarError, match=message):
        open_model(name, model_args, False).make()


def test_completion() -> None:
    kind = find_library("timm:anything")
    assert kind is not None
    assert list(kind.complete("ti")) == ["timm:"]
    assert "timm:deit_tiny_patch16_224" in kind.complete("timm:deit_tiny")
