"""Attributes of torch's own modules that repeat a shape: found for every kind, and true after any cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import podar
from podar.graph.mirrors import mirrors
from podar.model.members import Members


def networks() -> dict[str, tuple[nn.Module, torch.Tensor]]:
    image, text = torch.randn(2, 3, 8, 8), torch.randint(0, 9, (2, 5))
    return {
        "convolutions": (nn.Sequential(nn.Conv2d(3, 8, 3), nn.ConvTranspose2d(8, 6, 2), nn.Conv2d(6, 2, 1)), image),
        "depthwise": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 2, 1)), image),
        "norms": (
            nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.GroupNorm(2, 8), nn.Conv2d(8, 2, 1)),
            image,
        ),
        "instance": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.InstanceNorm2d(8, affine=True), nn.Conv2d(8, 2, 1)), image),
        "embedding": (nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2)), text),
    }


@pytest.mark.parametrize("name", networks())
def test_every_mirror_is_the_size_that_it_repeats(name: str) -> None:
    model, inputs = networks()[name]
    members = Members(model.eval())
    found = mirrors(members.all, members.tensors)
    assert found
    assert_true(model, found)
    podar.prune(model, inputs, "channels=0.5", scope="local")
    assert_true(model, found)
    assert model(inputs).shape[0] == 2


def assert_true(model: nn.Module, found: list) -> None:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for mirror in found:
        module = model.get_submodule(mirror.module)
        groups = module.groups if mirror.grouped else 1
        assert getattr(module, mirror.attribute) == tensors[mirror.tensor].shape[mirror.dim] * groups, mirror
