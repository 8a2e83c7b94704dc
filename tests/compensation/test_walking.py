"""Forward passes that stop before each reading."""

from __future__ import annotations

import threading

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from podar.compensation.flow import follow
from podar.compensation.readings import Parameters
from podar.compensation.walking import Walk


class Net(nn.Module):
    """A residual block of convolutions, a product with a parameter of its own, and a linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(1, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        self.own = nn.Parameter(torch.randn(4, 6))
        self.twice = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.stem(x)))
        x = functional.relu(self.conv(x) + x)
        return self.twice(self.twice(x.mean((2, 3)) @ self.own))


KEYS = [("stem.weight", 0), ("conv.weight", 0), ("own", 0), ("twice.weight", 0), ("twice.weight", 1)]


def walk(model: nn.Module, x: Tensor) -> Walk:
    parameters = Parameters(model)
    run = lambda m: m(x)  # noqa: E731
    return Walk(model, run, parameters, follow(model, run, parameters))


def test_every_reading_is_met_in_order() -> None:
    model, x = Net().eval(), torch.randn(2, 1, 5, 5)
    going, met = walk(model, x), []
    while (reading := going.step()) is not None:
        met.append(reading.key)
    assert met == KEYS and going.step() is None


def test_what_follows_is_known() -> None:
    model, x = Net().eval(), torch.randn(2, 1, 5, 5)
    flow = follow(model, lambda m: m(x), Parameters(model))
    assert flow.order == KEYS
    stem, conv = flow.after["stem.weight", 0], flow.after["conv.weight", 0]
    assert stem.norm is not None and stem.norm.mean == "norm.running_mean" and stem.rectified and stem.other is None
    assert conv.norm is None and conv.other is not None and conv.rectified
    assert not flow.after["own", 0].rectified


def test_changed_weights_are_used_at_once() -> None:
    model, x = Net().eval(), torch.randn(2, 1, 5, 5)
    outputs = []
    parameters = Parameters(model)
    going = Walk(model, lambda m: outputs.append(m(x)), parameters, follow(model, lambda m: m(x), parameters))
    while (reading := going.step()) is not None:
        if reading.key[1] == 0:
            with torch.no_grad():
                reading.weight.mul_(0.5)
    torch.testing.assert_close(outputs[0], model(x))


def test_an_error_arrives_and_a_walk_can_be_given_up() -> None:
    model = Net().eval()
    going = walk(model, torch.randn(2, 1, 5, 5))
    going.step()
    going.close()
    failing = Net().eval()
    parameters = Parameters(failing)
    flow = follow(failing, lambda m: m(torch.randn(1, 1, 5, 5)), parameters)
    broken = Walk(failing, lambda m: m(torch.randn(1, 3, 5, 5)), parameters, flow)
    with pytest.raises(RuntimeError):
        while broken.step() is not None:
            pass
    assert not any(t.name == "podar-walk" for t in threading.enumerate() if t.is_alive() and t is not broken._thread)
