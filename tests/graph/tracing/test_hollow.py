"""Operators that are not computed give the shapes, types and strides that the computed ones give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import podar
from podar.graph.operators.shapes import broadcast_shape
from podar.graph.tracing.running import observe
from podar.model.inputs import named_tensors


def attend(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(x, x, x)


CASES: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "arithmetic": lambda x, w: (x + w.sum(), x * 2, x - x.mean(1, keepdim=True), x.double() * x),
    "choice": lambda x, w: torch.where(x > 0, x, 0.5),
    "in place": lambda x, w: x.clone().add_(w.mean()).relu_().mul_(2),
    "unary": lambda x, w: (x.exp(), x.sigmoid(), F.gelu(x), F.silu(x), x.softmax(-1), x.clamp(0, 1), x.pow(2)),
    "convolution": lambda x, w: F.conv2d(x, w, stride=2, padding=1, dilation=2),
    "channels last": lambda x, w: F.conv2d(x.contiguous(memory_format=torch.channels_last), w),
    "transposed": lambda x, w: F.conv_transpose2d(x, w[:4, :, :2, :2], stride=2, output_padding=1),
    "pooling": lambda x, w: (F.max_pool2d(x, 3, 2, 1), F.avg_pool2d(x, 2, ceil_mode=True), F.adaptive_avg_pool2d(x, 3)),
    "resizing": lambda x, w: F.interpolate(x, scale_factor=2, mode="nearest"),
    "norms": lambda x, w: (F.layer_norm(x, x.shape[2:]), F.group_norm(x, 2)),
    "batch norm": lambda x, w: F.batch_norm(x, x.mean((0, 2, 3)), x.var((0, 2, 3))),
    "products": lambda x, w: (x @ x.transpose(2, 3), F.linear(x, w[0, 0].repeat(1, 3)[:, :8])),
    "einsum": lambda x, w: torch.einsum("bchw,dcij->bdhw", x, w),
    "attention": lambda x, w: attend(x.reshape(2, 9, 4, 8).transpose(1, 2)),
    "joins": lambda x, w: (torch.cat([x, x], 1), torch.stack([x, x], 2), F.pad(x, (1, 2, 0, 1))),
    "mean": lambda x, w: (x.mean(), x.mean(1), x.mean((2, 3), keepdim=True)),
}


RUNS: list[Any] = []


class Body(nn.Module):
    """Runs one case; what its results look like goes to a list of this file, of which a trace's twin has no other."""

    def __init__(self, case: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.weight, self.case = nn.Parameter(torch.randn(6, 4, 3, 3)), case

    def forward(self, x: Tensor) -> Any:
        y = self.case(x, self.weight)
        RUNS.append([(tuple(t.shape), t.dtype, t.stride()) for _, t in named_tensors(y)])
        return y


@pytest.mark.parametrize("name", CASES)
def test_results_look_as_if_they_had_been_computed(name: str) -> None:
    RUNS.clear()
    body, x = Body(CASES[name]), torch.randn(2, 4, 9, 8)
    with torch.no_grad():
        body(x)
    record = observe(body, x)
    assert not record.real  # nothing asked for values
    computed, hollow = RUNS[:2]
    assert hollow == computed


@given(st.lists(st.lists(st.sampled_from([0, 1, 2, 3]), max_size=3), min_size=1, max_size=3))
def test_shapes_are_broadcast_as_torch_does_it(shapes: list[list[int]]) -> None:
    try:
        wanted = torch.broadcast_shapes(*shapes)
    except RuntimeError:
        with pytest.raises(RuntimeError):
            broadcast_shape(*shapes)
        return
    assert broadcast_shape(*shapes) == wanted


def test_a_model_that_looks_at_values_is_run_for_real() -> None:
    class Looks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return self.b(y if y.sum() > -1e9 else -y)

    assert observe(Looks(), torch.randn(2, 4)).real


@pytest.fixture
def poisoned(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """Memory that nobody wrote to holds NaN, and the largest whole numbers."""
    torch.use_deterministic_algorithms(True)
    monkeypatch.setattr(torch.utils.deterministic, "fill_uninitialized_memory", True)
    yield monkeypatch
    torch.use_deterministic_algorithms(False)


class Picks(nn.Module):
    """Goes on with the best rows, as detectors do with their best boxes."""

    def __init__(self, rows: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.score, self.out = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        y = self.features(x).relu()
        rows = self.rows(self.score(y))
        return self.out(y.gather(1, rows.unsqueeze(-1).expand(-1, -1, y.shape[-1])))


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize(
    "rows",
    [
        lambda s: s.flatten(1).topk(5).indices // 4,
        lambda s: s.flatten(1).topk(5).indices.div(4, rounding_mode="floor").add_(0),
        lambda s: s.argmax(1).clone().clamp_(0, 6),
        lambda s: s.amax(2).long().clamp(0, 6),
        lambda s: F.max_pool1d(s.amax(2, keepdim=True).transpose(1, 2), 2, return_indices=True)[1][:, 0],
    ],
)
def test_indices_stay_within_bounds_whatever_is_in_memory(rows: Callable[[Tensor], Tensor]) -> None:
    model, x = Picks(rows).eval(), torch.rand(2, 7, 6)
    result = podar.prune(model, x, "channels=0.5", scope="local")
    assert not result.graph.record.real and model.features.out_features == 4
    assert torch.isfinite(model(x)).all()


def test_what_fails_over_unwritten_memory_is_looked_at_again_with_values(poisoned: pytest.MonkeyPatch) -> None:
    bounds = torch.linspace(-1e30, 1e30, 6)
    model, x = Picks(lambda s: torch.searchsorted(bounds, s.amax(2))).eval(), torch.rand(2, 6, 6)  # 6 where it is NaN

    def run(model: nn.Module) -> Tensor:
        assert isinstance(model, Picks)
        pruned = model.features.out_features < 8
        poisoned.setattr(torch.utils.deterministic, "fill_uninitialized_memory", pruned)
        return model(x)

    podar.prune(model, run, "channels=0.5", scope="local")
    assert model.features.out_features == 4 and torch.isfinite(model(x)).all()
