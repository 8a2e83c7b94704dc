"""A trace leaves no trace: weights, statistics, random state, modes, attributes and gradients are as they were."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import podar
from podar.errors import PodarError
from tests.graph.random_networks import INPUT, Network, networks


def everything(model: nn.Module) -> dict[str, Any]:
    """All that a user could see of a model, as bytes and texts."""
    found: dict[str, Any] = {n: t.numpy().tobytes() for n, t in model.state_dict().items()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in ("_parameters", "_buffers", "_modules"):
                found[f"{name}.{key}"] = [(k, id(v)) for k, v in value.items()]
            elif not isinstance(value, (dict, set)):
                found[f"{name}.{key}"] = (type(value), repr(value))
            else:
                found[f"{name}.{key}"] = len(value)
    for name, p in model.named_parameters():
        found[f"{name}'s"] = (p.requires_grad, None if p.grad is None else p.grad.numpy().tobytes(), vars(p).copy())
    return found


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(networks())
def test_the_untouched_model_is_bit_identical_after_a_trace(model: Network) -> None:
    model.train()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    before, random = everything(model), torch.get_rng_state()
    podar.trace(model, INPUT)
    assert everything(model) == before
    assert torch.equal(torch.get_rng_state(), random)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(networks())
def test_the_untouched_model_is_bit_identical_after_a_refused_plan(model: Network) -> None:
    before = everything(model)
    with contextlib.suppress(PodarError):
        podar.prune(model, INPUT, "macs=0.01", protect=["stem", "head"], scope="local")
        return  # reached after all
    assert everything(model) == before


class Noisy(nn.Module):
    """Draws numbers, counts its calls in a buffer, writes into a list, and has dropout and batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.drop, self.head = (
            nn.Conv2d(3, 8, 3),
            nn.BatchNorm2d(8),
            nn.Dropout(0.5),
            nn.Linear(8, 2),
        )
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.seen: list[int] = []
        self.last: Tensor | None = None

    def forward(self, x: Any) -> Tensor:
        own: Any = self
        own.calls += 1
        self.seen.append(x.shape[0])
        x = self.drop(self.norm(self.conv(x))) + torch.rand(1)
        self.last = x.mean((2, 3))
        return self.head(self.last)


@pytest.mark.parametrize("train", [False, True])
def test_what_forward_writes_is_taken_back(train: bool) -> None:
    model = Noisy().train(train)
    before, random = everything(model), torch.get_rng_state()
    podar.trace(model, torch.zeros(2, 3, 8, 8))
    assert everything(model) == before and model.last is None and model.seen == []
    assert torch.equal(torch.get_rng_state(), random)
    assert torch.isfinite(model(torch.randn(2, 3, 8, 8))).all()


def test_example_inputs_are_left_alone() -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.fc(x.mul_(2).add_(1))

    x = torch.randn(2, 4)
    kept = x.clone()
    podar.trace(InPlace().eval(), x)
    assert torch.equal(x, kept) and not vars(x)


def test_a_forward_that_fails_leaves_nothing_behind() -> None:
    class Failing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.width, self.fc = 4, nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            self.width = self.width * 2
            self.fc(x)
            raise ValueError("not today")

    model = Failing().train()
    before = everything(model)
    with pytest.raises(PodarError, match="not today"):
        podar.trace(model, torch.zeros(1, 4))
    assert everything(model) == before and type(model.width) is int


def test_frozen_parameters_stay_so() -> None:
    model: Any = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 2))
    model[0].weight.requires_grad_(False)
    podar.prune(model, torch.zeros(1, 4), "channels=0.5")
    assert not model[0].weight.requires_grad and model[1].weight.requires_grad
    assert model.training and model[0].bias.shape == (4,)
