"""MODEL and DATA by name: what opens, what is converted and said, and what clashes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from podar.errors import PodarError
from podar.model.inputs import call
from podar.sources.opening import open_source
from podar.workshops import TrainingOptions

NETS = """
import torch
from torch import nn

def grey(classes=10):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

def colour(classes=10):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))

def fixed(classes=10):
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 30 * 30, classes))

def images():
    return nn.Conv2d(1, 4, 3)

def vectors():
    return nn.Sequential(nn.Linear(12, 4), nn.Linear(4, 10))

def sick():
    net = grey()
    with torch.no_grad():
        net[4].bias[3] = float("nan")
    return net
"""


@pytest.fixture
def nets(tmp_path: Path) -> str:
    (tmp_path / "nets.py").write_text(NETS)
    return f"{tmp_path}/nets.py"


def test_a_model_without_data(nets: str, tmp_path: Path) -> None:
    source = open_source(f"{nets}:colour", model_args={"classes": 7})
    assert source.name == "colour"
    model = source.build()
    assert not model.training
    assert call(model, source.inputs()).shape == (1, 7)
    assert json.loads(json.dumps(source.spec)) == {"model": f"{nets}:colour", "model_args": {"classes": 7}}
    training = TrainingOptions(checkpoint=tmp_path / "c", files=tmp_path)
    for needs_data in (lambda: source.workshop.train(model, training), lambda: source.workshop.evaluate(model)):
        with pytest.raises(PodarError, match="need a data set: name one with --data"):
            needs_data()


def test_every_build_is_equal_and_independent(nets: str) -> None:
    source = open_source(f"{nets}:colour")
    first, second = source.build(), source.build()
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters()))
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert next(second.parameters()).abs().sum() > 0


def test_data_that_fits_goes_in_as_it_is(nets: str) -> None:
    source = open_source(f"{nets}:grey", "digits")
    assert source.notes == ()
    assert source.data is not None
    assert source.inputs().shape == (1, *source.data.shape) == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("function", "shape"),
    [("colour", (3, 8, 8)), ("fixed", (3, 32, 32))],
)
def test_other_data_is_converted_and_that_is_said(nets: str, function: str, shape: tuple[int, ...]) -> None:
    source = open_source(f"{nets}:{function}", "digits")
    assert source.data is not None
    assert source.data.shape == shape
    assert source.data.test[0][0].shape == shape
    size = "×".join(map(str, shape))
    assert source.notes == (f"the images of digits are 1×8×8 and go into {nets}:{function} as {size}.",)


def test_the_user_may_choose_the_size(nets: str) -> None:
    source = open_source(f"{nets}:colour", "digits", image_size=16)
    assert source.data is not None
    assert source.data.shape == (3, 16, 16)


def test_a_size_that_the_model_refuses(nets: str) -> None:
    with pytest.raises(PodarError, match=r"nets\.py:fixed takes images of 3×32×32, and digits cannot be brought to"):
        open_source(f"{nets}:fixed", "digits", image_size=16)


def test_another_number_of_classes_says_both_and_the_option(nets: str) -> None:
    message = r"digits has 10 classes and timm:resnet10t has 1000 outputs: add --model-arg num_classes=10\."
    with pytest.raises(PodarError, match=message):
        open_source("timm:resnet10t", "digits")
    source = open_source("timm:resnet10t", "digits", model_args={"num_classes": 10})
    assert source.notes[0].startswith("timm:resnet10t has random weights")


def test_what_is_no_classifier_of_images(nets: str) -> None:
    with pytest.raises(PodarError, match=r"is no classifier \(its output has the shape \(1, 4, 6, 6\)\)"):
        open_source(f"{nets}:images", "digits")
    with pytest.raises(PodarError, match="takes no images, and digits is a data set of images"):
        open_source(f"{nets}:vectors", "digits")


def test_weights_come_in_and_are_checked(nets: str, tmp_path: Path) -> None:
    trained = open_source(f"{nets}:grey").build()
    with torch.no_grad():
        trained.get_parameter("4.bias").fill_(0.25)
    save_file(trained.state_dict(), tmp_path / "w.safetensors")
    source = open_source(f"{nets}:grey", weights=tmp_path / "w.safetensors")
    assert source.notes == ()
    assert source.build().get_parameter("4.bias").tolist() == [0.25] * 10
    with pytest.raises(PodarError, match=r"4\.weight has shape \(10, 4\) in .*w\.safetensors and \(3, 4\)"):
        open_source(f"{nets}:grey", weights=tmp_path / "w.safetensors", model_args={"classes": 3})
    with pytest.raises(PodarError, match=r"there is no weights file .*v\.safetensors; did you mean .*w\.safetensors\?"):
        open_source(f"{nets}:grey", weights=tmp_path / "v.safetensors")


def test_weights_that_are_not_finite(nets: str, tmp_path: Path) -> None:
    with pytest.raises(PodarError, match=r"nets\.py:sick: 1 of the 10 values of 4\.bias are NaN"):
        open_source(f"{nets}:sick")
    trained = open_source(f"{nets}:grey").build()
    with torch.no_grad():
        trained.get_parameter("0.weight")[0] = float("inf")
    torch.save(trained.state_dict(), tmp_path / "w.pth")
    with pytest.raises(PodarError, match=r"w\.pth: 9 of the 36 values of 0\.weight are infinite"):
        open_source(f"{nets}:grey", weights=tmp_path / "w.pth")


def test_weights_of_an_ultralytics_checkpoint(tmp_path: Path) -> None:
    trained = open_source("yolo26n.yaml").build()
    with torch.no_grad():
        for parameter in trained.parameters():
            parameter.add_(0.125)
    torch.save({"model": trained}, tmp_path / "best.pt")
    built = open_source("yolo26n.yaml", weights=tmp_path / "best.pt").build()
    assert all(torch.equal(a, b) for a, b in zip(trained.parameters(), built.parameters()))


def test_a_pickle_needs_trust(nets: str, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "w.pt")
    with pytest.raises(PodarError, match="--trust"):
        open_source(f"{nets}:grey", weights=tmp_path / "w.pt")


def test_a_file_that_is_no_model(tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "w.safetensors")
    with pytest.raises(PodarError, match="is no model: give a checkpoint as --weights beside the MODEL"):
        open_source(str(tmp_path / "w.safetensors"))


def test_an_unknown_data_set(nets: str) -> None:
    with pytest.raises(PodarError, match=r"did you mean digits\?"):
        open_source(f"{nets}:grey", "digitz")


def test_data_of_the_users_own(nets: str, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (40, 12, 12, 3), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", images=images, labels=np.arange(40) % 4)
    source = open_source(f"{nets}:colour", str(tmp_path / "d.npz"), model_args={"classes": 4})
    assert source.inputs().shape == (1, 3, 12, 12)
