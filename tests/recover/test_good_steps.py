"""The model goes back to where its loss and gradient were last finite, and the error says where that is."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator
from torch import nn

from podar.errors import PodarError
from podar.model.batches import Batch
from podar.recover.good_steps import GoodSteps

FINE, BAD = torch.tensor(1.0), torch.tensor(float("nan"))
BATCH = [Batch(torch.rand(2, 2), torch.rand(2))]


def look(good: GoodSteps, step: int, loss: torch.Tensor = FINE, norm: torch.Tensor = FINE) -> None:
    good.look(1, step, loss, norm, BATCH, [0.1])


@pytest.mark.parametrize(("loss", "norm", "what"), [(BAD, FINE, "the loss is nan"), (FINE, BAD, "the gradient")])
def test_back_to_the_last_finite_step(loss: torch.Tensor, norm: torch.Tensor, what: str) -> None:
    linear, norms = nn.Linear(2, 2), nn.BatchNorm1d(2)
    model = nn.Sequential(linear, norms)
    average = norms.running_mean
    assert average is not None
    good = GoodSteps(model, Accelerator(), 0)
    seen: list[torch.Tensor] = []
    for step in range(3):
        look(good, step)
        seen.append(linear.weight.detach().clone())
        with torch.no_grad():
            linear.weight.add_(1)
            average.add_(step)
    with pytest.raises(PodarError, match=f"{what}.*lower the learning rate .it was 0.1.*before step 3, its last good"):
        look(good, 3, loss, norm)
    assert torch.equal(linear.weight, seen[2]) and float(average[0]) == 1


def test_nothing_was_good() -> None:
    model = nn.Linear(2, 2)
    before = model.weight.detach().clone()
    good = GoodSteps(model, Accelerator(), 0)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    with pytest.raises(PodarError, match="as it was before the training"):
        look(good, 4, BAD)
    assert torch.equal(model.weight, before)
