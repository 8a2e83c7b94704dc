"""Recalibration: the statistics are those of the pictures, and nothing else changes."""

from __future__ import annotations

import torch
from torch import nn

from podar.data import Dataset
from podar.recover import recalibrate


def test_statistics_are_those_of_what_enters_the_norm(data: Dataset) -> None:
    norm = nn.BatchNorm2d(1)
    model = nn.Sequential(norm)
    assert recalibrate(model, data.train, batches=2, batch_size=128) == 1
    inputs, _ = data.train.batch(torch.arange(256))
    mean, variance = norm.running_mean, norm.running_var
    assert mean is not None and variance is not None
    torch.testing.assert_close(mean, inputs.mean(dim=(0, 2, 3)))
    torch.testing.assert_close(variance, inputs.var(dim=(0, 2, 3)), rtol=2e-3, atol=0)


def test_a_second_time_changes_nothing(model: nn.Module, data: Dataset) -> None:
    recalibrate(model, data.train)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    recalibrate(model, data.train)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_parameters_modes_and_momentum_stay(model: nn.Module, data: Dataset) -> None:
    norm = model.get_submodule("norm").eval()
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    recalibrate(model, data.train)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert model.training and not norm.training and norm.momentum == 0.1


def test_a_model_without_norms_is_left_alone(data: Dataset) -> None:
    assert recalibrate(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), data.train) == 0


def test_norms_that_are_not_reached_keep_their_statistics(data: Dataset) -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.BatchNorm2d(1), nn.BatchNorm2d(1)
            nn.init.constant_(self.idle.running_mean, 3.0)  # type: ignore[arg-type]
            self.idle.num_batches_tracked += 7  # type: ignore[operator]

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.used(x)

    model = Two()
    assert recalibrate(model, data.train) == 1
    assert model.idle.running_mean == 3.0 and model.idle.num_batches_tracked == 7
    assert model.used.num_batches_tracked != 0
