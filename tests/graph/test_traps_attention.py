"""Attention's traps: its scale on both paths, norms of queries and keys, widths that must stay equal, odd spellings."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.errors import PodarError
from tests.graph.oracle import difference
from tests.graph.random_networks import RMSNorm

EXACT = 1e-9
TOKENS = torch.zeros(2, 6, 16)
INNER = {"* inner": 0.5}


class Attention(nn.Module):
    """timm's: a fused path without `scale`, a written-out one with the attribute, optional norms on q and k."""

    def __init__(self, fused: bool, norm: str = "", bias: bool = True, heads: int = 4) -> None:
        super().__init__()
        self.num_heads, self.head_dim, self.fused, self.scale = heads, 8, fused, 8**-0.5
        self.qkv, self.proj = nn.Linear(16, 3 * heads * 8, bias=bias), nn.Linear(heads * 8, 5)
        make = {"layer": nn.LayerNorm, "rms": RMSNorm, "": lambda _: nn.Identity()}[norm]
        self.q_norm, self.k_norm = make(8), make(8)

    def forward(self, x: Tensor) -> Tensor:
        n, t, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4).unbind(0)
        q, k = self.q_norm(q), self.k_norm(k)
        if self.fused:
            y = functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(n, t, -1))


def local(model: nn.Module, inputs: Any, **options: Any) -> Any:
    return podar.prune(model, inputs, "channels=0.5", scope="local", importance="random", **options)


@pytest.mark.parametrize("norm", ["", "layer", "rms"])
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("ratios", [None, INNER])
def test_the_scale_is_kept_on_both_paths(norm: str, fused: bool, ratios: dict[str, float] | None) -> None:
    worst, result = difference(lambda: Attention(fused, norm).eval(), TOKENS, lambda m, x: local(m, x, ratios=ratios))
    assert worst < EXACT
    model = result.model
    assert (model.num_heads, model.head_dim) == ((4, 4) if ratios else (2, 8))
    x = torch.randn(2, 6, 16).double()
    with torch.no_grad():
        one = model(x)
        model.fused = not fused
        if fused:  # traced on the fused path, the attribute of the other one is set too
            assert torch.allclose(one, model(x), atol=1e-9)


@pytest.mark.parametrize("bias", [True, False])
def test_the_scale_survives_a_second_pruning(bias: bool) -> None:
    model = Attention(True, bias=bias).eval()
    local(model, TOKENS, ratios=INNER)
    local(model, TOKENS, ratios=INNER)
    assert model.head_dim == 2
    x = torch.randn(2, 6, 16)
    with torch.no_grad():
        fused = model(x)
        model.fused = False
        assert torch.allclose(fused, model(x), atol=1e-5)


class Formula(nn.Module):
    """The scale is computed in forward, in the ways that people write it."""

    def __init__(self, way: str) -> None:
        super().__init__()
        self.way, self.heads, self.width = way, 2, 8
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 16)
        self.out = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (m(x).view(2, -1, self.heads, self.width).transpose(1, 2) for m in (self.q, self.k, self.v))
        scores = q @ k.transpose(-2, -1)
        if self.way == "root of an attribute":
            scores = scores / math.sqrt(self.width)
        elif self.way == "power of a shape":
            scores = scores * q.shape[-1] ** -0.5
        elif self.way == "root of a tensor":
            scores = scores / torch.sqrt(torch.tensor(float(k.size(-1))))
        else:
            scores = scores * (1.0 / q.size(-1) ** 0.5)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(2, x.shape[1], -1))


@pytest.mark.parametrize("way", ["root of an attribute", "power of a shape", "root of a tensor", "one over a root"])
def test_a_scale_computed_in_forward_is_made_up_for_or_frozen(way: str) -> None:
    worst, result = difference(lambda: Formula(way).eval(), TOKENS, local)
    assert worst < EXACT and result.model.heads == 1
    inner = [g.name for g in result.graph.groups if g.kind == "inner" and ("q.weight", 0) in g.members]
    try:
        worst, _ = difference(lambda: Formula(way).eval(), TOKENS, lambda m, x: local(m, x, ratios={inner[0]: 0.5}))
    except PodarError as error:
        assert "inner dimensions that cannot go" in str(error) or "depends on a width" in str(error)
    else:
        assert worst < EXACT


def test_values_stay_as_wide_as_queries() -> None:
    """Another width of v would lose the fused kernel: 2 to 4 times slower on a CPU."""

    class Separate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.out = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 5)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (m(x).unflatten(-1, (4, -1)).transpose(1, 2) for m in (self.q, self.k, self.v))
            return self.out(functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    for scope in ("local", "global"):
        model = Separate().eval()
        podar.prune(model, TOKENS, "channels=0.5", scope=scope)
        rows = {len(m.weight) for m in (model.q, model.k, model.v)}
        assert len(rows) == 1 and rows.pop() < 32


class Encoder(nn.Module):
    """torch's own attention, whose fast path tells a tracer nothing."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True, dropout=0.0)
        self.layers, self.head = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x)[:, 0])


def test_torchs_own_encoder_loses_hidden_units_on_both_paths() -> None:
    worst, result = difference(lambda: Encoder().eval(), TOKENS, local)
    assert worst < EXACT
    assert result.model.layers.layers[0].linear1.weight.shape[0] == 12
    model, x = copy.deepcopy(result.model).float(), torch.randn(2, 6, 16)
    with torch.no_grad():
        fast = model(x)
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            assert torch.allclose(fast, model(x), atol=1e-5)
        finally:
            torch.backends.mha.set_fastpath_enabled(True)


def test_the_fast_path_is_as_it_was_after_a_trace() -> None:
    for enabled in (False, True):
        torch.backends.mha.set_fastpath_enabled(enabled)
        podar.trace(Encoder().eval(), TOKENS)
        assert torch.backends.mha.get_fastpath_enabled() is enabled


class Gated(nn.Module):
    """Keys and values of a pooled map, a gate on the heads, an output scale a channel: attention as hybrids have it."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.gate, self.gamma = 4, nn.Parameter(torch.rand(4, 1, 1)), nn.Parameter(torch.rand(16))
        self.q, self.kv, self.proj = nn.Conv2d(3, 32, 1), nn.Conv2d(3, 64, 2, 2), nn.Conv2d(32, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        n, _, h, w = x.shape
        q = self.q(x).reshape(n, self.heads, -1, h * w).transpose(-2, -1)
        k, v = self.kv(x).reshape(n, 2, self.heads, -1, h * w // 4).transpose(-2, -1).unbind(1)
        y = functional.scaled_dot_product_attention(q, k, v) * torch.sigmoid(self.gate)
        y = self.proj(y.transpose(-2, -1).reshape(n, -1, h, w)) * self.gamma[:, None, None]
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("ratios", [None, INNER])
def test_attention_over_maps(ratios: dict[str, float] | None) -> None:
    images = torch.zeros(2, 3, 4, 4)
    worst, result = difference(lambda: Gated().eval(), images, lambda m, x: local(m, x, ratios=ratios))
    assert worst < EXACT
    assert result.model.gate.shape[0] == (4 if ratios else 2) and result.model.gamma.shape == (8,)
