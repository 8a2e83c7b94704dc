"""Example inputs in every form that people have them, and the paths of outputs."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError
from podar.model.inputs import call
from podar.model.tensors import named_tensors


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.out = nn.Linear(4, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor, other: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.out((self.a(x) + self.b(other)).relu() * scale)


X, Y = torch.zeros(2, 4), torch.zeros(2, 3)


@pytest.mark.parametrize(
    "inputs",
    [(X, Y), [X, Y], {"x": X, "other": Y}, {"x": X, "other": Y, "scale": 2.0}, lambda model: model(X, other=Y)],
    ids=["tuple", "list", "dict", "dict with a number", "callable"],
)
def test_every_form_of_inputs_prunes_the_same(inputs: Any) -> None:
    torch.manual_seed(0)
    model = Two().eval()
    result = podar.prune(model, inputs, "channels=0.5")
    assert model.a.out_features == model.b.out_features == model.out.in_features == 4
    assert result.after.params < result.before.params
    assert call(model, inputs).shape == (2, 2)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (X, "missing 1 required positional argument"),
        ((X, Y, Y), "positional arguments"),
        ((X, X), "shapes|size"),
        ({"x": X, "others": Y}, "others"),
        (3, "example_inputs is a int"),
        (None, "example_inputs is a NoneType"),
        ("x", "example_inputs is a str"),
    ],
)
def test_inputs_that_do_not_fit_are_named_and_nothing_changes(inputs: Any, said: str) -> None:
    model = Two().eval()
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises((PodarError, TypeError), match=said) as caught:
        podar.prune(model, inputs, "channels=0.5")
    assert isinstance(caught.value, PodarError), "one kind of error for every bad input"
    assert "\n" not in str(caught.value)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@dataclass
class Output:
    logits: Tensor
    hidden: tuple[Tensor, ...]
    text: str = "no tensor"


def test_outputs_are_named_by_their_path() -> None:
    pair = namedtuple("pair", "left right")
    nested = {"a": [X, {"b": Y}], "c": Output(X, (Y, Y)), "d": pair(X, 3), "e": None}
    assert [path for path, _ in named_tensors(nested)] == [
        "a.0",
        "a.1.b",
        "c.logits",
        "c.hidden.0",
        "c.hidden.1",
        "d.0",
    ]
    assert [path for path, _ in named_tensors(X)] == [""]
