"""A model as a function of flat tensors, and the example inputs that cannot be made one."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from podar.errors import PodarError
from podar.formats.flat import flatten
from tests.formats.networks import ConvNet, Detector

IMAGES = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize(
    "inputs",
    [IMAGES, (IMAGES,), [IMAGES], {"image": IMAGES}, lambda model: model(image=IMAGES)],
    ids=lambda i: type(i).__name__,
)
def test_every_form_of_example_inputs(inputs) -> None:
    model = ConvNet().eval()
    flat = flatten(model, inputs)
    assert flat.input_names == ("image",)
    assert (flat.batch, flat.batched) == (2, (True,))
    torch.testing.assert_close(flat.run(flat.inputs), [model(IMAGES)])


def test_nested_arguments_are_rebuilt_from_other_tensors() -> None:
    model = Detector()
    flat = flatten(model, {"images": (IMAGES, -IMAGES), "scale": torch.ones(2), "double": True})
    others = (torch.randn(5, 3, 8, 8), torch.randn(5, 3, 8, 8), torch.rand(5))
    expected = model(others[:2], scale=others[2], double=True)
    got = dict(zip(flat.output_names, flat.run(others)))
    torch.testing.assert_close(got["found_boxes_1"], expected["found"].boxes[1])
    assert torch.equal(flat.tensors({"images": others[:2], "scale": others[2]})[1], others[1])


def test_weights_computed_from_others_keep_their_values_and_the_model_its_class() -> None:
    model = ConvNet().eval()
    prune.l1_unstructured(model.conv2, "weight", amount=0.8)
    parametrizations.weight_norm(model.head)
    expected = model(IMAGES)
    flat = flatten(model, IMAGES)
    names = {name.removeprefix("model.") for name, _ in flat.module.named_parameters()}
    assert {"conv2.weight", "head.weight"} < names
    assert not any("orig" in name for name in names)
    torch.testing.assert_close(flat.run([IMAGES])[0], expected)
    torch.testing.assert_close(model(IMAGES), expected)


def test_batches_grow_and_shrink() -> None:
    flat = flatten(ConvNet(), IMAGES)
    (grown,) = flat.with_batch(flat.inputs, 5)
    assert torch.equal(grown, IMAGES[[0, 1, 0, 1, 0]])
    assert torch.equal(flat.with_batch(flat.inputs, 1)[0], IMAGES[:1])


class Silent(nn.Module):
    def forward(self, x: torch.Tensor) -> str:
        return "nothing"


@pytest.mark.parametrize(
    ("model", "inputs", "message"),
    [
        (ConvNet(), torch.ones(1, 1, 8, 8), r"does not run on the example inputs \(image \(1, 1, 8, 8\) torch.float32"),
        (ConvNet(), {"picture": IMAGES}, r"do not fit ConvNet.forward: missing a required argument: 'image'"),
        (ConvNet(), (), "do not fit ConvNet.forward"),
        (ConvNet(), lambda model: None, "call the model 0 times"),
        (ConvNet(), 3, "is a int"),
        (Silent(), IMAGES, "returns no tensor"),
    ],
)
def test_what_cannot_be_made_flat(model: nn.Module, inputs, message: str) -> None:
    with pytest.raises(PodarError, match=message):
        flatten(model, inputs)
