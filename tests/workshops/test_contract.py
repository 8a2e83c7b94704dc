"""A source builds its model once and hands out equal ones; every workshop does all that the Protocol names."""

from __future__ import annotations

import inspect
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from podar.errors import PodarError
from podar.libraries.ultralytics.workshop import YoloOnPictures, YoloWorkshop
from podar.sources.opening import open_source
from podar.workshops import PodarWorkshop, Source, Workshop, needed, short_name

NET = """
from pathlib import Path
from torch import nn

def net(classes=10):
    with Path(__file__).with_suffix(".built").open("a") as file:
        file.write("built ")
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
"""


@pytest.fixture
def net(tmp_path: Path) -> Path:
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def builds(net: Path) -> int:
    return net.with_suffix(".built").read_text().count("built")


@pytest.mark.parametrize("data", [None, "digits"])
@pytest.mark.parametrize("with_weights", [False, True])
def test_a_model_is_built_once(net: Path, tmp_path: Path, data: str | None, with_weights: bool) -> None:
    weights = tmp_path / "w.safetensors" if with_weights else None
    if weights is not None:
        save_file({"0.weight": torch.ones(4, 1, 3, 3), "0.bias": torch.ones(4), "4.weight": torch.ones(10, 4),
                   "4.bias": torch.ones(10)}, weights)  # fmt: skip
    source = open_source(f"{net}:net", data, weights=weights)
    first, second = source.build(), source.build()
    source.inputs()
    assert builds(net) == 1
    assert first is not second and first is not source.model
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).abs().sum() > 0
    assert next(source.build().parameters()).abs().sum() > 0


def plain(make_model: type[nn.Module]) -> Source:
    return Source(
        called="toy:net",
        spec={"model": "toy:net"},
        make=make_model,
        dense=make_model,
        example_inputs=lambda _: torch.zeros(1, 3),
        workshop=PodarWorkshop(),
    )


class Locked(nn.Linear):
    """What cannot be copied."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        super().__init__(3, 2)
        self.lock = threading.Lock()


def test_what_cannot_be_copied_is_built_again() -> None:
    source = plain(Locked)
    assert torch.equal(source.build().get_parameter("weight"), source.model.get_parameter("weight"))
    assert source.build() is not source.model


def test_a_change_is_made_of_what_was_built_and_of_what_will_be() -> None:
    def filled(model: nn.Module) -> nn.Module:
        with torch.no_grad():
            model.get_parameter("weight").fill_(3)
        return model

    source = plain(Locked)
    built = source.model
    changed = source.changed(filled)
    assert changed.model is built
    assert changed.build().get_parameter("weight").eq(3).all()
    assert not source.dense().get_parameter("weight").eq(3).any()


def test_another_field_keeps_the_model_and_another_maker_does_not() -> None:
    source = plain(Locked)
    built = source.model
    assert source.replaced(notes=("a",)).model is built
    assert source.replaced(make=Locked).model is not source.model
    assert replace(source).model is not source.model


def test_every_workshop_does_all_that_is_asked_of_one() -> None:
    workshops: list[Workshop] = [PodarWorkshop(), YoloWorkshop(), YoloOnPictures()]  # which pyright checks whole
    asked = {name: value for name, value in vars(Workshop).items() if inspect.isfunction(value) and name[0] != "_"}
    assert len(asked) > 10
    for workshop in workshops:
        for name, function in asked.items():
            own = inspect.signature(getattr(type(workshop), name))
            assert list(own.parameters) == list(inspect.signature(function).parameters), (workshop, name)
        assert isinstance(workshop.importance, str)
        assert "onnx" in workshop.formats()


def test_without_data_nothing_trains() -> None:
    assert needed("data") == "data"
    for workshop in (PodarWorkshop(), YoloWorkshop()):
        with pytest.raises(PodarError, match="need a data set: name one with --data"):
            workshop.evaluate(nn.Linear(1, 1))


def test_a_checkpoint_of_a_run_is_called_like_the_run() -> None:
    names = [short_name(m) for m in ("runs/drone/weights/best.pt", "yolo26n.pt", "weights/best.pt", "timm:resnet18")]
    assert names == ["drone", "yolo26n", "best", "resnet18"]
