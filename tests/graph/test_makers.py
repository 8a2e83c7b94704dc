"""Attention without `scale`: after whatever else, the factor goes to what makes them last, or nothing goes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.errors import PodarError
from tests.graph.oracle import halved

PICTURE = torch.zeros(2, 8, 4, 4)


class Gate(nn.Module):
    """A factor that does not hang on what it multiplies."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Conv2d(8, 16, 1)

    def forward(self, q: Tensor, x: Tensor) -> Tensor:
        return q * torch.sigmoid(self.weight(x))


class OneHead(nn.Module):
    """One head over the pixels of a feature map; `after` runs on q and k."""

    def __init__(self, after: str) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Conv2d(8, 16, 1) for _ in range(3))
        self.proj, self.after = nn.Conv2d(16, 5, 1), after
        self.norm_q, self.norm_k = nn.BatchNorm2d(16), nn.BatchNorm2d(16)
        self.depth_q, self.depth_k = (nn.Conv2d(16, 16, 3, padding=1, groups=16) for _ in range(2))
        self.gate, self.place = Gate(), nn.Parameter(torch.randn(16, 4, 4))
        self.table = nn.Parameter(torch.randn(16, 16))

    def between(self, q: Tensor, k: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.after == "batch norm":
            return self.norm_q(q), self.norm_k(k)
        if self.after == "batch norm, depthwise":
            return self.depth_q(self.norm_q(q)), self.depth_k(self.norm_k(k))
        if self.after == "gate":
            return self.gate(q, x), k
        if self.after == "position":
            return q + self.place, torch.cat([k[:, :, :2], k[:, :, 2:] * 0.5], 2)
        if self.after == "tanh":
            return torch.tanh(q), torch.tanh(k)
        if self.after == "a number":
            return q + 1.0, k - 0.5
        if self.after == "tanh of q":
            return torch.tanh(q), k
        return q, k

    def forward(self, x: Tensor) -> Tensor:
        q, k = self.between(self.q(x), self.k(x), x)
        q, k, v = (t.flatten(2).transpose(1, 2) for t in (q, k, self.v(x)))
        bias = q @ self.table if self.after == "bias of q" else None
        y = functional.scaled_dot_product_attention(q, k, v, bias)
        return self.proj(y.transpose(1, 2).unflatten(2, (4, 4)))


CASES = ["", "batch norm", "batch norm, depthwise", "gate", "position", "tanh of q", "tanh", "a number", "bias of q"]


@pytest.mark.parametrize("after", CASES)
def test_the_factor_goes_to_what_comes_last(after: str) -> None:
    worst, result = halved(lambda: OneHead(after).eval(), PICTURE)
    assert worst < 1e-9
    assert result.model.q.out_channels == (16 if after in ("tanh", "a number") else 8)


def test_where_nothing_could_take_the_factor_the_width_stays() -> None:
    graph = podar.trace(OneHead("tanh"), PICTURE)
    assert any("nothing could make up for another width" in reason for _, _, reason in graph.frozen)


class Alone(nn.Module):
    """One tensor is query, key and value: a factor on it would change what is mixed too."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(functional.scaled_dot_product_attention(x, x, x))


def test_where_queries_are_values_too_the_width_stays() -> None:
    with pytest.raises(PodarError, match="nothing could make up for another width of the attention"):
        halved(lambda: Alone().eval(), torch.zeros(2, 4, 6))


class Inputs(nn.Module):
    """Weights as (in, out), as GPT-2 has them."""

    def __init__(self) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(torch.randn(8, 48)), nn.Parameter(torch.randn(48))
        self.proj = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = torch.addmm(self.b, x.flatten(0, 1), self.w).unflatten(0, (2, 6)).chunk(3, -1)
        return self.proj(functional.scaled_dot_product_attention(q, k, v))


def test_the_factor_goes_to_columns_where_outputs_are_columns() -> None:
    worst, result = halved(lambda: Inputs().eval(), torch.zeros(2, 6, 8))
    assert worst < 1e-9
    assert result.model.w.shape == (8, 24)
    assert podar.Plan.from_json(result.plan.to_json()) == result.plan


def test_sizes_are_divided_among_themselves() -> None:
    class Halves(Inputs):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x[:, : torch.div(x.size(1), 2, rounding_mode="trunc") * 2])

    worst, result = halved(lambda: Halves().eval(), torch.zeros(2, 6, 8))
    assert worst < 1e-9
    assert result.model.w.shape == (8, 24)
