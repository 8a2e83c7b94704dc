"""Accuracy: counted in eval mode, whatever shape the model's outputs have."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from podar.data import Dataset
from podar.errors import PodarError
from podar.recover import accuracy


class Halves(nn.Module):
    """Says which half is brighter; in train mode it says the contrary."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.wrap = wrap

    def forward(self, x: Tensor) -> Any:
        """Logits, wrapped."""
        logits = torch.stack([x[..., :4].sum((1, 2, 3)), x[..., 4:].sum((1, 2, 3))], 1)
        return self.wrap(-logits if self.training else logits)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda logits: logits,
        lambda logits: {"logits": logits},
        lambda logits: (logits, None),
        lambda logits: SimpleNamespace(logits=logits),
    ],
)
def test_every_shape_of_outputs(data: Dataset, wrap: Callable[[Tensor], Any]) -> None:
    model = Halves(wrap).train()
    assert accuracy(model, data.test) == 1.0
    assert model.training
    assert accuracy(model, [data.test.batch(torch.arange(10))]) == 1.0


def test_it_is_a_fraction_of_all_pictures(data: Dataset) -> None:
    always_left = Halves(lambda logits: torch.zeros_like(logits) - torch.tensor([0.0, 1.0]))
    assert accuracy(always_left, data.test) == int((data.test.labels == 0).sum()) / len(data.test)


def test_what_is_no_classifier_is_said(data: Dataset) -> None:
    with pytest.raises(PodarError, match="no classifier"):
        accuracy(Halves(lambda logits: {"boxes": logits}), data.test)
    with pytest.raises(PodarError, match="no pictures"):
        accuracy(Halves(lambda logits: logits), [])
