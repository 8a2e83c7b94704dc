"""Whole residual blocks go: found in the trace alone, the same as their mask, in one plan with channels."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.errors import PodarError
from podar.graph.residual_blocks import residual_blocks
from tests.graph.oracle import difference
from tests.graph.random_networks import Attention, Gated, Residual

IMAGES = torch.zeros(2, 3, 8, 8)


class Net(nn.Module):
    def __init__(self, blocks: list[nn.Module]) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = nn.Conv2d(3, 12, 3, padding=1), nn.Sequential(*blocks), nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def convolutional() -> nn.Module:
    torch.manual_seed(0)
    return Net([Residual(12, 10, nn.ReLU()) for _ in range(4)]).eval()


def attentive() -> nn.Module:
    torch.manual_seed(0)
    makers = [lambda: Attention(12, 3, 4, 0), lambda: Gated(12, 9, True)]
    return Net([make() for _ in range(3) for make in makers]).eval()


@pytest.mark.parametrize(("build", "count"), [(convolutional, 4), (attentive, 6)])
def test_residual_branches_are_found(build: object, count: int) -> None:
    model = build()  # type: ignore[operator]
    before = [id(m) for m in model.modules()]
    blocks = residual_blocks(model, IMAGES, podar.trace(model, IMAGES))
    assert len(blocks) == count
    assert [id(m) for m in model.modules()] == before
    assert len({b.kind for b in blocks}) == (1 if build is convolutional else 2)


@pytest.mark.parametrize("build", [convolutional, attentive])
@pytest.mark.parametrize("target", ["params=0.4", "macs=0.5", "channels=0.5"])
@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_surgery_computes_what_the_mask_computes(build: object, target: str, scope: str) -> None:
    worst, result = difference(
        build,  # type: ignore[arg-type]
        IMAGES,
        lambda m, x: podar.prune(m, x, target, scope=scope, depth=True),
    )
    assert worst < 1e-9
    kind, _, value = target.partition("=")
    if kind != "channels":
        reached = getattr(result.after, kind) / getattr(result.before, kind)
        assert abs(reached - float(value)) <= 0.03
    assert result.after.params == sum(p.numel() for p in result.model.parameters())


def unimportant(model: nn.Module, name: str) -> None:
    with torch.no_grad():
        for p in model.get_submodule(name).parameters():
            p.mul_(1e-3)


def test_the_least_important_block_goes_first_and_its_removal_is_replayed(tmp_path: Path) -> None:
    model = convolutional()
    unimportant(model, "blocks.2")
    dense = copy.deepcopy(model)
    result = podar.prune(model, IMAGES, "params=0.7", depth=True)
    assert result.blocks == ("blocks.2.bn2",)
    assert result.removed_mask("blocks.2.conv1.weight").all()
    assert not [n for n, _ in model.named_parameters() if n.startswith("blocks.2")]
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        wanted = model(x)
        podar.save(model, tmp_path / "m")
        assert torch.equal(podar.load(tmp_path / "m", lambda: convolutional())(x), wanted)
        assert torch.equal(podar.apply(copy.deepcopy(dense), podar.Plan.from_json(result.plan.to_json()))(x), wanted)
        masked = podar.mask(copy.deepcopy(dense), result.plan)
        assert torch.allclose(masked(x), wanted, atol=1e-5)


def test_a_model_without_blocks_is_pruned_again_and_trains() -> None:
    model = attentive()
    podar.prune(model, IMAGES, "params=0.6", depth=True)
    podar.prune(model, IMAGES, "params=0.7")
    model.train()
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    torch.export.export(copy.deepcopy(model).eval(), (IMAGES,))


class Leaking(nn.Module):
    """A branch that something else looks into is no block."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(12, 12, 1), nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.a(x))
        return (x + self.b(y)) * y


class Constant(nn.Module):
    """A branch that is not zero where its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(12, 12, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.sigmoid(self.a(x))


@pytest.mark.parametrize("kind", [Leaking, Constant])
def test_what_is_no_block(kind: type[nn.Module]) -> None:
    model = Net([kind(), kind()]).eval()
    assert residual_blocks(model, IMAGES, podar.trace(model, IMAGES)) == ()


def test_protected_blocks_stay_and_a_failure_leaves_the_model_as_it_was() -> None:
    model = convolutional()
    unimportant(model, "blocks.2")
    result = podar.prune(copy.deepcopy(model), IMAGES, "params=0.7", depth=True, protect=["blocks.2"])
    assert "blocks.2.bn2" not in result.blocks
    before = [(n, tuple(p.shape)) for n, p in model.named_parameters()]
    with pytest.raises(PodarError, match="cannot be reached"):
        podar.prune(model, IMAGES, "params=0.1", depth=True, protect=["blocks.0", "blocks.1"])
    assert [(n, tuple(p.shape)) for n, p in model.named_parameters()] == before
    assert not hasattr(model, "podar_plan")
