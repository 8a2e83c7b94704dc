"""Calls are seen as Python wrote them: arguments by name count as those by place, sizes remember their axis."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from tests.graph.oracle import halved

EXACT = 1e-9


class ByName(nn.Module):
    """Every argument of the operators that are traced whole is given by its name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.value = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        v = self.value(x)[:, None]
        x = functional.linear(input=x, weight=self.first.weight, bias=self.first.bias)
        x = functional.batch_norm(
            input=x,
            weight=self.norm.weight,
            bias=self.norm.bias,
            running_mean=self.norm.running_mean,
            running_var=self.norm.running_var,
        )
        q = x[:, None]
        x = functional.scaled_dot_product_attention(query=q, key=q, value=v)[:, 0]
        return functional.linear(x, bias=self.last.bias, weight=self.last.weight)


def test_arguments_by_name_count_as_those_by_place() -> None:
    worst, result = halved(lambda: ByName().eval(), torch.zeros(4, 6))
    assert worst < EXACT
    assert result.model.first.out_features == result.model.norm.num_features == result.model.last.in_features == 4


class Convolves(nn.Module):
    """Calls its convolutions in one of the ways that torch allows."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.way = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 3, 1, bias=False), way

    def forward(self, x: Tensor) -> Tensor:
        a, w = self.a, self.b.weight
        if self.way == "by place":
            y = functional.conv2d(x, a.weight, a.bias, 1, 1)
        elif self.way == "by name":
            y = functional.conv2d(input=x, weight=a.weight, bias=a.bias, padding=1)
        elif self.way == "same size":
            y = functional.conv2d(x, a.weight, a.bias, padding="same")
        elif self.way == "one picture":
            y = torch.stack([functional.conv2d(own, a.weight, a.bias, padding=1) for own in x])
        else:
            y = self.a(x)
        return functional.conv2d(functional.relu(y).add(y.sigmoid()), w)


@pytest.mark.parametrize("way", ["module", "by place", "by name", "same size", "one picture"])
def test_a_convolution_is_one_operator_however_it_is_called(way: str) -> None:
    worst, result = halved(lambda: Convolves(way).eval(), torch.zeros(2, 3, 6, 6))
    assert worst < EXACT
    assert result.model.a.weight.shape == (4, 3, 3, 3) and result.model.b.weight.shape == (3, 4, 1, 1)
    assert result.before.macs == 2 * 36 * (8 * 3 * 9 + 3 * 8)


def test_an_operator_of_another_library_is_not_taken_for_its_namesake() -> None:
    library = torch.library.Library("podar_test_namesakes", "DEF")
    library.define("relu(Tensor x) -> Tensor")
    library.impl("relu", lambda x: x.flip(1) + 1, "CompositeExplicitAutograd")

    class Flips(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(torch.ops.podar_test_namesakes.relu(self.a(x)))

    frozen = podar.trace(Flips().eval(), torch.zeros(2, 3, 2, 2)).frozen
    assert any("no rule for the operator podar_test_namesakes::relu" in why for _, _, why in frozen)


class Sized(nn.Module):
    """Takes the size of one axis in three ways and gives it to a view."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.a, self.b, self.way = nn.Conv2d(3, 8, 1), nn.Linear(32, 3), way

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x)
        size = {"shape": lambda: y.shape[1], "size": lambda: y.size(1), "numel": lambda: y.numel() // (4 * len(y))}
        return self.b(y.view(len(y), size[self.way]() * 4))


def test_sizes_remember_the_axis_that_they_come_from() -> None:
    for way in ("shape", "size", "numel"):
        worst, result = halved(lambda: Sized(way).eval(), torch.zeros(2, 3, 2, 2))  # noqa: B023
        assert worst < EXACT
        assert result.model.a.out_channels == 4


def test_the_model_finds_its_sizes_plain_again() -> None:
    model = Sized("shape")
    podar.trace(model, torch.zeros(2, 3, 2, 2))
    assert type(model.a.out_channels) is int
    assert type(model.a(torch.zeros(1, 3, 2, 2)).shape[1]) is int
