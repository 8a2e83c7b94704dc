"""A model as a function of flat tensors, and the example inputs that cannot be made one."""

from __future__ import annotations

from collections import UserDict
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

import podar
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


class Sizes(NamedTuple):
    tall: torch.Tensor
    wide: torch.Tensor


@dataclass(frozen=True)
class Boxes:
    corners: torch.Tensor
    label: str
    area: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "area", self.corners.sum(dim=1, keepdim=True))


class Attributes(UserDict):
    """A mapping that is no dict, whose items are also attributes, as those of transformers' tokenizers are."""

    def __getattr__(self, name: str) -> torch.Tensor:
        return self.data[name]


class Nested(nn.Module):
    """Reads containers of many kinds; each gives another value."""

    def forward(self, x, sizes=None, mapping=None, boxes=None, proxy=None, **more):
        if sizes is not None:
            x = x + 2 * sizes.tall + 3 * sizes.wide
        if mapping is not None:
            x = x + 5 * mapping.mask
        if boxes is not None:
            x = x + 7 * boxes.corners + 11 * boxes.area + len(boxes.label)
        if proxy is not None:
            x = x + 13 * proxy["deep"][0]
        return sum((17 * value for value in more.values()), x)


def numbers(seed: int) -> torch.Tensor:
    return torch.rand(2, 3, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("argument", "names"),
    [
        ({"sizes": Sizes(numbers(1), numbers(2))}, ["sizes_0", "sizes_1"]),
        ({"mapping": Attributes(mask=numbers(1))}, ["mapping_mask"]),
        ({"boxes": Boxes(numbers(1), "ship")}, ["boxes_corners", "boxes_area"]),
        ({"proxy": MappingProxyType({"deep": [numbers(1)]})}, ["proxy_deep_0"]),
        ({"sizes": Sizes(*[numbers(1)] * 2), "boxes": Boxes(numbers(2), "a")}, None),
        ({"further": numbers(1), "yet_more": numbers(2)}, ["further", "yet_more"]),
    ],
)
def test_tensors_in_any_container_are_inputs_and_none_is_built_into_the_file(argument, names, tmp_path) -> None:
    """The values of the example stay out of the file: other tensors in the same containers give other outputs."""
    model = Nested()
    flat = flatten(model, {"x": numbers(0), **argument})
    assert names is None or list(flat.input_names) == ["x", *names]
    others = tuple(tensor + 1 for tensor in flat.inputs)
    for k in range(len(flat.inputs)):
        only = [other if i == k else own for i, (own, other) in enumerate(zip(flat.inputs, others))]
        assert not torch.allclose(flat.run(only)[0], flat.run(flat.inputs)[0])
    exported = podar.export(model, tmp_path / "net.onnx", {"x": numbers(0), **argument})
    assert set(exported.input_names) == set(flat.input_names)


def test_two_inputs_of_one_name_are_refused() -> None:
    class Clashing(nn.Module):
        def forward(self, a: dict[str, torch.Tensor], a_b: torch.Tensor) -> torch.Tensor:
            return a["b"] - a_b

    with pytest.raises(PodarError, match="a_b"):
        flatten(Clashing(), {"a": {"b": numbers(0)}, "a_b": numbers(1)})
