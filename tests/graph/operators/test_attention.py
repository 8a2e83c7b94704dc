"""Attention and einsum: what is traced whole is cut right, and by its attributes too."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from tests.graph.oracle import difference

EXACT = 1e-9
TOKENS = torch.zeros(2, 5, 12)


class Attention(nn.Module):
    """Self-attention in the ways that people write it."""

    def __init__(self, way: str, heads: int = 3, keys: int | None = None) -> None:
        super().__init__()
        self.way, self.heads, self.keys, self.width = way, heads, keys or heads, 12 // heads
        self.scale = self.width**-0.5
        self.q, self.k = nn.Linear(12, 12), nn.Linear(12, self.keys * self.width)
        self.v, self.proj = nn.Linear(12, self.keys * self.width), nn.Linear(12, 4)
        self.table = nn.Parameter(torch.rand(5, 5, heads))

    def split(self, x: Tensor, heads: int) -> Tensor:
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.split(self.q(x), self.heads), self.split(self.k(x), self.keys), self.split(self.v(x), self.keys)
        if self.way == "fused":
            y = functional.scaled_dot_product_attention(q, k, v)
        elif self.way == "fused with a table":
            y = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.table.permute(2, 0, 1))
        elif self.way == "grouped":
            y = functional.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        elif self.way == "einsum":
            y = torch.einsum("bhnm,bhmd->bhnd", (torch.einsum("bhnd,bhmd->bhnm", q, k) * self.scale).softmax(-1), v)
        else:
            y = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize("way", ["fused", "fused with a table", "by hand", "einsum"])
@pytest.mark.parametrize("ratios", [None, {"* inner": 0.5}])
def test_heads_and_what_is_within_them_go(way: str, ratios: dict[str, float] | None) -> None:
    worst, result = difference(
        lambda: Attention(way).eval(),
        TOKENS,
        lambda m, x: podar.prune(m, x, "channels=0.5", scope="local", ratios=ratios),
    )
    assert worst < EXACT
    assert result.after.params < result.before.params
    assert (result.model.heads, result.model.q.weight.shape[0] < 12) == (3 if ratios else 2, True)


def test_query_heads_that_share_keys() -> None:
    def cut(model: nn.Module, inputs: Tensor) -> Any:
        return podar.prune(model, inputs, "channels=0.5", scope="local")

    worst, result = difference(lambda: Attention("grouped", heads=6, keys=3).eval(), TOKENS, cut)
    assert worst < EXACT and result.model.heads % result.model.keys == 0


def test_both_paths_of_a_pruned_attention_agree() -> None:
    model = Attention("fused").eval()
    podar.prune(model, TOKENS, "channels=0.5", scope="local", ratios={"* inner": 0.5})
    x = torch.randn(2, 5, 12)
    with torch.no_grad():
        fused = model(x)
        model.way = "by hand"
        assert torch.allclose(fused, model(x), atol=1e-5)


def test_macs_of_attention_by_hand() -> None:
    model = Attention("fused").eval()
    linear = 2 * 5 * 12 * 12 * 3 + 2 * 5 * 12 * 4
    assert podar.trace(model, TOKENS).cost().macs == linear + 2 * (2 * 3 * 5 * 5 * 4)
