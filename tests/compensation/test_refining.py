"""Maps that move together come nearer to the dense model than maps that were solved alone, or stay as they were."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.compensation import compensate, refining


class Net(nn.Module):
    """Two residual blocks, norms, a ReLU in place, a linear layer over a sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1)
        self.one, self.two = nn.Conv2d(12, 24, 3, padding=1, bias=False), nn.Conv2d(24, 12, 3, padding=1, bias=False)
        self.a, self.b = nn.BatchNorm2d(24), nn.BatchNorm2d(12)
        self.relu = nn.ReLU(inplace=True)
        self.mixed, self.head = nn.Linear(12, 20), nn.Linear(20, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.stem(x))
        x = self.relu(self.b(self.two(self.relu(self.a(self.one(x))))) + x)
        tokens = x.flatten(2).transpose(1, 2)
        return self.head(functional.gelu(self.mixed(tokens)).mean(1))


def cut(model: nn.Module, x: Tensor) -> tuple[nn.Module, nn.Module]:
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d) and norm.weight is not None:
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.uniform_(norm.bias, -0.5, 0.5)
    model.train()
    with torch.no_grad():
        model(x)
    dense = copy.deepcopy(model.eval())
    podar.prune(model, x[:1], "channels=0.5")
    return model, dense


def error(model: nn.Module, dense: nn.Module, x: Any) -> float:
    with torch.no_grad():
        wanted, got = dense(x), model(x)
    return float((got - wanted).norm() / (wanted - wanted.mean(0)).norm())


def pictures(seed: int, count: int = 160) -> Tensor:
    coarse = torch.randn(count, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return functional.interpolate(coarse, scale_factor=2.0, mode="bilinear")


@pytest.fixture
def pair() -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    return cut(Net(), pictures(0))


def test_moving_together_comes_nearer_than_solving_alone(pair: tuple[nn.Module, nn.Module]) -> None:
    model, dense = pair
    alone = copy.deepcopy(model)
    compensate(alone, dense, pictures(0), refine=False)
    before = {n: t.clone() for n, t in dense.state_dict().items()}
    report = compensate(model, dense, pictures(0))
    assert report.refined is not None and report.refined.left is None and report.refined.steps > 0
    assert report.refined.after is not None and report.refined.before is not None
    assert report.refined.after < report.refined.before
    unseen = pictures(1)
    assert error(model, dense, unseen) < error(alone, dense, unseen)
    assert all(torch.equal(t, before[n]) for n, t in dense.state_dict().items())
    assert "all maps together" in str(report) and report.to_json()["refined"]["steps"] == report.refined.steps


def test_nothing_is_left_behind(pair: tuple[nn.Module, nn.Module]) -> None:
    model, dense = pair
    model.head.requires_grad_(False)  # pyright: ignore[reportFunctionMemberAccess, reportAttributeAccessIssue]
    wanted = {n: p.requires_grad for n, p in model.named_parameters()}
    assert compensate(model, dense, pictures(0)).refined is not None
    assert {n: p.requires_grad for n, p in model.named_parameters()} == wanted
    assert all(p.grad is None and p.is_leaf for p in model.parameters())
    assert not model.training
    model(pictures(1)).sum().backward()


def test_the_order_of_the_batches_changes_nothing(pair: tuple[nn.Module, nn.Module]) -> None:
    model, dense = pair
    other = copy.deepcopy(model)
    batches = list(pictures(0).split(40))
    for network, inputs in ((model, batches), (other, batches[::-1])):
        compensate(network, dense, inputs)
    for (name, a), (_, b) in zip(model.named_parameters(), other.named_parameters()):
        assert torch.allclose(a, b, atol=1e-3), name


def test_what_does_no_good_is_taken_back(pair: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, dense = pair
    alone = copy.deepcopy(model)
    compensate(alone, dense, pictures(0), refine=False)
    monkeypatch.setattr(refining, "STEP", 30.0)
    report = compensate(model, dense, pictures(0))
    assert report.refined is not None and report.refined.left is not None
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), alone.state_dict().values()))


class Ungraded(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return super().forward(x)


def test_a_model_without_gradients_is_left_and_said() -> None:
    torch.manual_seed(0)
    model, dense = cut(Ungraded(), pictures(0))
    report = compensate(model, dense, pictures(0))
    assert report.solved and report.refined is not None and "no gradient" in str(report.refined.left)


def test_too_much_work_is_left_and_said(pair: tuple[nn.Module, nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    model, dense = pair
    monkeypatch.setattr(refining, "WORK", 1e3)
    report = compensate(model, dense, pictures(0))
    assert report.refined is not None and "multiplications" in str(report.refined.left)


def test_half_precision_and_few_inputs_are_left_and_said(pair: tuple[nn.Module, nn.Module]) -> None:
    model, dense = pair
    few = compensate(copy.deepcopy(model), dense, pictures(0, 3))
    assert few.refined is not None and few.refined.left is not None
    half = compensate(model.bfloat16(), dense.bfloat16(), pictures(0).bfloat16())
    assert half.refined is not None and "precision" in str(half.refined.left)
