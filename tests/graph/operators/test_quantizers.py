"""Models that train for int8, or whose ranges are being observed, lose channels with all that is known of these."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import torch.ao.quantization as ao
    from torch.ao.quantization import quantize_fx

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),  # torch.ao is on its way out, and says so in many places
]
IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = ao.QuantStub(), ao.DeQuantStub()
        self.a, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.b, self.relu, self.head = nn.Conv2d(8, 12, 3, padding=1), nn.ReLU(), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.a(self.quant(x))))
        return self.dequant(self.head(self.b(x).mean((2, 3))))


class Plain(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.Flatten(2))


def rehearsed(backend: str, fused: bool) -> nn.Module:
    model = Net().train()
    if fused:
        model = ao.fuse_modules_qat(model, [["a", "norm", "relu"]])
    model.qconfig = ao.get_default_qat_qconfig(backend)  # pyright: ignore
    return ao.prepare_qat(model)  # pyright: ignore


def observed() -> nn.Module:
    model = ao.fuse_modules(Net().eval(), [["a", "norm", "relu"]])
    model.qconfig = ao.get_default_qconfig("fbgemm")  # pyright: ignore
    return ao.prepare(model)  # pyright: ignore


def by_graph() -> nn.Module:
    return quantize_fx.prepare_qat_fx(Plain().train(), ao.get_default_qat_qconfig_mapping("x86"), (IMAGES,))


BUILD: dict[str, Callable[[], nn.Module]] = {
    "channels": lambda: rehearsed("fbgemm", fused=False),
    "channels, fused": lambda: rehearsed("fbgemm", fused=True),
    "whole tensors": lambda: rehearsed("qnnpack", fused=True),
    "observers": observed,
    "by graph": by_graph,
}


@pytest.mark.parametrize("kind", BUILD)
def test_rehearsed_quantisation(kind: str) -> None:
    torch.manual_seed(0)
    model: Any = BUILD[kind]()
    for _ in range(3):
        model(IMAGES)
    model.eval().apply(ao.disable_observer)
    buffers = {n: b.clone() for n, b in model.named_buffers()}
    masked = copy.deepcopy(model)
    result = podar.prune(model, IMAGES, "channels=0.5", scope="local")
    assert result.after.params < 0.6 * result.before.params
    for name, buffer in model.named_buffers():  # what was seen stays
        assert torch.equal(buffer.flatten(), buffers[name][~result.removed_mask(name)].flatten())
    with torch.no_grad():
        wanted, got = podar.mask(masked, result.plan)(IMAGES), model(IMAGES)
    assert torch.isfinite(got).all() and float((wanted - got).abs().max() / wanted.abs().max()) < 0.02
    model.train().apply(ao.enable_observer)
    model(IMAGES).sum().backward()
    model.eval()(IMAGES)


def test_it_can_be_converted_after_the_cut() -> None:
    torch.manual_seed(0)
    model = rehearsed("fbgemm", fused=True)
    model(IMAGES)
    podar.prune(model.eval(), IMAGES, "channels=0.5", scope="local")
    with torch.no_grad():
        before = model(IMAGES)
        after = ao.convert(model)(IMAGES)
    assert after.shape == before.shape and torch.allclose(before, after, atol=0.1 * float(before.abs().max()))
