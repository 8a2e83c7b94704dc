"""After a cut and compensation a model is near the dense one; what cannot be solved is left and said."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.compensation import compensate
from podar.data import load
from podar.demo import load_trained
from podar.errors import PodarError
from podar.recover import recalibrate


def error(model: nn.Module, dense: nn.Module, x: Any) -> float:
    with torch.no_grad():
        wanted, got = dense(x), model(x)
    return float((got - wanted).norm() / (wanted - wanted.mean(0)).norm())


class Doubled(nn.Module):
    """Every hidden unit has a twin, so half of them can go without a loss, if what stays takes over."""

    def __init__(self, layer: str) -> None:
        super().__init__()
        self.layer = layer
        if layer == "linear":
            self.first, self.second = nn.Linear(5, 8), nn.Linear(8, 3)
        else:
            self.first, self.second = nn.Conv2d(5, 8, 3), nn.Conv2d(8, 3, 3, bias=layer == "bias")
        self.norm = nn.BatchNorm2d(3) if layer == "norm" else nn.Identity()
        with torch.no_grad():
            for p in self.first.parameters():
                p[4:] = p[:4] * torch.tensor([1.5, 0.7, 1.2, 0.9]).view(-1, *[1] * (p.dim() - 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.second(functional.relu(self.first(x))))


@pytest.mark.parametrize("layer", ["linear", "bias", "norm"])
def test_twins_take_over_without_a_loss(layer: str) -> None:
    torch.manual_seed(0)
    model = Doubled(layer).eval()
    x = torch.randn(200, 5) if layer == "linear" else torch.randn(40, 5, 7, 7)
    dense = copy.deepcopy(model)
    keep = {name: t.clone() for name, t in dense.state_dict().items()}
    graph = podar.trace(model, x[:1])
    unit = {n: torch.arange(8.0) for n in ("first.bias",)}
    podar.apply(model, podar.plan(graph, "channels=0.5", scores=unit))
    assert error(model, dense, x) > 0.1
    report = compensate(model, dense, x)
    assert error(model, dense, x) < 1e-2, str(report)
    assert all(torch.equal(t, keep[n]) for n, t in dense.state_dict().items())
    assert not model.training and len(report.solved) >= 1 and "→" in str(report)


class Mixed(nn.Module):
    """Depthwise, grouped, dilated and transposed convolutions, a gate, attention and a linear layer used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, 2, 1)
        self.wide, self.depth = nn.Conv2d(16, 32, 1, bias=False), nn.Conv2d(32, 32, 3, 1, 2, 2, groups=32, bias=False)
        self.n1, self.n2, self.n3 = nn.BatchNorm2d(32), nn.BatchNorm2d(32), nn.BatchNorm2d(16)
        self.squeeze, self.gate = nn.Conv2d(32, 8, 1), nn.Conv2d(8, 32, 1)
        self.narrow = nn.Conv2d(32, 16, 1, bias=False)
        self.grouped, self.up = nn.Conv2d(16, 32, 3, 1, 1, groups=2), nn.ConvTranspose2d(32, 16, 2, 2)
        self.attend, self.norm = nn.MultiheadAttention(16, 4, batch_first=True), nn.LayerNorm(16)
        self.mlp1, self.mlp2, self.again = nn.Linear(16, 48), nn.Linear(48, 16), nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.stem(x))
        y = functional.relu6(self.n2(self.depth(functional.relu6(self.n1(self.wide(x))))))
        y = y * self.gate(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))).sigmoid()
        x = x + self.n3(self.narrow(y))
        x = self.up(functional.gelu(self.grouped(x))).flatten(2).transpose(1, 2)
        x = x + self.attend(x, x, x, need_weights=False)[0]
        x = x + self.mlp2(functional.gelu(self.mlp1(self.norm(x))))
        return self.again(self.again(x))


def test_any_layer_comes_nearer() -> None:
    torch.manual_seed(0)
    model, x = Mixed().eval(), torch.randn(96, 3, 12, 12)
    with torch.no_grad():
        model.train()
        model(x)
        model.eval()
    dense = copy.deepcopy(model)
    podar.prune(model, x[:1], "channels=0.6", scope="local")
    before = error(model, dense, x)
    report = compensate(model, dense, x.split(24))
    assert error(model, dense, x) < 0.6 * before, str(report)
    solved = {c.name for c in report.solved}
    assert {"depth.weight", "narrow.weight", "grouped.weight", "mlp2.weight"} <= solved, str(report)
    assert all(c.before is not None and c.after is not None and c.after <= c.before for c in report.solved)
    assert all(c.left for c in report.left)


def test_the_demo_network_without_training() -> None:
    data, dense, model = load("fashion-mnist-demo"), load_trained(), load_trained()
    x = data.train.batch(torch.randperm(len(data.train), generator=torch.Generator().manual_seed(0))[:128])[0]
    podar.prune(model, x[:1], "macs=0.5")
    few = data.test.batch(torch.arange(2000))[0]
    with torch.no_grad():
        answers = dense(few).argmax(1)
        recalibrated = copy.deepcopy(model)
        recalibrate(recalibrated, x)
        compensate(model, dense, x)
        agree = {n: float((m(few).argmax(1) == answers).float().mean()) for n, m in (("r", recalibrated), ("c", model))}
    assert agree["c"] > 0.92 and agree["c"] > agree["r"] + 0.05, agree


def test_bad_input_is_refused_and_nothing_changes() -> None:
    model, x = Doubled("linear").eval(), torch.randn(30, 5)
    dense = copy.deepcopy(model)
    podar.prune(model, x[:1], "channels=0.5")
    before = {n: t.clone() for n, t in model.state_dict().items()}
    mixed = [torch.randn(20, 5), torch.randn(4, 6)]  # the second batch fails when the first is half way through
    for bad in ([], torch.full((4, 5), math.nan), torch.randn(4, 6), [x, torch.full((2, 5), math.inf)], mixed):
        with pytest.raises(PodarError):
            compensate(model, dense, bad)
        assert all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def test_zeros_of_a_sparse_layer_stay() -> None:
    torch.manual_seed(0)
    model, x = Doubled("linear").eval(), torch.randn(100, 5)
    dense = copy.deepcopy(model)
    podar.sparsify(model, 0.5)
    podar.bake(model)
    zeros = model.second.weight == 0
    report = compensate(model, dense, x)
    assert bool((model.second.weight[zeros] == 0).all())
    assert any("zeros" in (c.left or "") for c in report.left)


def test_one_sample_and_constant_inputs_do_no_harm() -> None:
    for x in (torch.randn(1, 5), torch.zeros(50, 5)):
        model = Doubled("linear").eval()
        dense = copy.deepcopy(model)
        podar.prune(model, torch.randn(1, 5), "channels=0.5")
        compensate(model, dense, x)
        assert all(bool(t.isfinite().all()) for t in model.state_dict().values())
