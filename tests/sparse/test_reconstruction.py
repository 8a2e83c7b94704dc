"""Reconstruction: the pattern holds, and each layer's output is nearer to the dense one than with masks alone."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.sparse import reconstruct
from podar.sparse.layers import weights_of
from podar.sparse.patterns import follows, parse_pattern
from podar.sparse.reconstruction import columns


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(4, 16, 3, padding=1, stride=2), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=4, padding=1), nn.ReLU(),
        nn.Conv2d(16, 8, 1), nn.Flatten(), nn.Linear(8 * 16, 24),
    )  # fmt: skip


def images(count: int = 200) -> torch.Tensor:
    """Pictures whose pixels depend on each other, as real ones do."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.randn(count, 4, 3, 3, generator=generator)
    return nn.functional.interpolate(coarse, size=8, mode="bilinear") + 0.1 * torch.randn(
        count, 4, 8, 8, generator=generator
    )


@pytest.mark.parametrize(("pattern", "amount"), [("unstructured", 0.8), ("2:4", None), ("1:4", None), ("4x1", 0.6)])
def test_the_layers_outputs_are_nearer_than_with_masks_alone(pattern: str, amount: float | None) -> None:
    model, x = network(), images()
    dense, masked = copy.deepcopy(model), copy.deepcopy(model)
    errors = reconstruct(model, amount, x, pattern=pattern)
    assert [e.name for e in errors] == ["0.weight", "2.weight", "4.weight", "6.weight"]
    assert all(e.error < e.masked_only or e.masked_only == 0 for e in errors)
    podar.sparsify(masked, amount, pattern=pattern)
    assert podar.sparsity(model).zeros == podar.sparsity(masked).zeros
    for weight in weights_of(model):
        assert weight.mask is not None and follows(weight, weight.mask, parse_pattern(pattern))
    fresh = images(400)[200:]  # none that it was calibrated on
    gaps = [(m(fresh) - dense(fresh)).square().mean().item() for m in (model, masked)]
    assert gaps[0] < 0.7 * gaps[1]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(6, 4),
        nn.Conv2d(4, 6, 3, padding=1, stride=2, dilation=2),
        nn.Conv2d(4, 8, (3, 1), groups=2, padding="same", padding_mode="circular"),
        nn.Conv1d(4, 6, 3, padding=1),
    ],
    ids=str,
)
def test_columns_are_what_a_layer_multiplies(layer: nn.Module) -> None:
    shape = {nn.Linear: (5, 6), nn.Conv2d: (5, 4, 9, 9), nn.Conv1d: (5, 4, 9)}[type(layer)]  # type: ignore[index]
    x = torch.randn(shape)
    weight = weights_of(layer)[0]
    seen = columns(layer, x)  # (groups, positions, columns)
    matrix = weight.matrix(weight.values).view(seen.shape[0], -1, seen.shape[2])
    output = torch.einsum("gpc,grc->gpr", seen, matrix)
    wanted = layer(x) - (
        0 if isinstance(layer, nn.Linear) else layer.get_parameter("bias").view(-1, *[1] * (x.dim() - 2))
    )
    if isinstance(layer, nn.Linear):
        wanted = wanted - layer.get_parameter("bias")
    n = x.shape[0]
    found = output.permute(1, 0, 2).reshape(n, -1, matrix.shape[0] * matrix.shape[1]).transpose(1, 2)
    assert torch.allclose(found.reshape(n, -1), wanted.reshape(n, -1), atol=1e-5)


def test_masks_that_are_there_are_continued() -> None:
    model, x = network(), images(64)
    podar.sparsify(model, 0.4)
    before = {w.name: w.mask.bool() for w in weights_of(model) if w.mask is not None}
    reconstruct(model, 0.7, x)
    assert podar.sparsity(model).fraction == pytest.approx(0.7, abs=0.002)
    for weight in weights_of(model):
        assert weight.mask is not None and bool((weight.mask.bool() <= before[weight.name]).all())


class WithState(nn.Module):
    """Two inputs, both needed."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(8, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return self.second(torch.relu(self.first(x) + state))


def test_a_state_is_no_label() -> None:
    torch.manual_seed(0)
    x, state = torch.randn(64, 8), torch.randn(64, 16)
    found = []
    for data in ([(x, state)], [((x, state), torch.zeros(64))], [{"x": x, "state": state}]):
        model = WithState()
        model.load_state_dict({n: torch.ones_like(t).cumsum(0).sin() for n, t in model.state_dict().items()})
        errors = reconstruct(model, 0.5, data)
        assert [error.name for error in errors] == ["first.weight", "second.weight"]
        found.append([error.error for error in errors])
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(found[2])
