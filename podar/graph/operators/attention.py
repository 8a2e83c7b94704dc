"""Scaled dot-product attention, and the softmax of what is written by hand."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from podar.graph.labels import INNER, Ids
from podar.graph.operators import shapes
from podar.graph.operators.products import axes_of, contract
from podar.graph.operators.register import operator
from podar.graph.operators.tracer import Tracer
from podar.graph.record import Attention


@operator(
    "scaled_dot_product_attention",
    shape=shapes.attention,
    zero=(2,),
    counts=True,
    queries=2,
    whole=True,
    arguments=("query", "key", "value", "attn_mask"),
)
def attention(
    tracer: Tracer,
    out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> None:
    """Heads meet, q and k meet inside, v decides the width; without `scale` the width of q sets it."""
    rank = q.dim()
    kept: dict[int, Ids | None] = {}
    for d in range(rank - 2):
        kept[d] = tracer.axis(q, d)
        for other in (k, v):
            if other.shape[d] > 1:
                theirs = tracer.axis(other, d)
                tracer.equal(kept[d], _shared_heads(tracer, theirs, q.shape[d] // other.shape[d]))
        local = d - rank + attn_mask.dim() if attn_mask is not None else -1
        if attn_mask is not None and local >= 0 and attn_mask.shape[local] > 1:
            meets = tracer.axis(attn_mask, local)
            if meets is not None or not tracer.uniform(attn_mask, local):
                tracer.equal(kept[d], meets)
    contract(tracer, q, rank - 1, k, rank - 1)
    inner, value = tracer.axis(q, rank - 1), tracer.axis(v, rank - 1)
    for t in (q, k, v):
        tracer.freeze(tracer.axis(t, rank - 2), "positions of")
    if attn_mask is not None:
        for d in range(max(attn_mask.dim() - 2, 0), attn_mask.dim()):
            tracer.freeze(tracer.axis(attn_mask, d), "positions of")
    if inner is not None:
        if scale is None:
            makers = (tracer.mark(q).makers, tracer.mark(k).makers)
            tracer.record.scales.append(Attention(tracer.module, inner, makers))
        if value is not None and len(value) == len(inner):
            # One width for q, k and v keeps the fused kernel.
            tracer.record.ties.append((inner, value))
    tracer.put(out, axes_of({**kept, rank - 1: value}), zero=tracer.mark(v).zero)
    pairs = math.prod(q.shape[:-1]) * k.shape[-2]
    tracer.macs(pairs * q.shape[-1], *kept.values(), inner)
    tracer.macs(pairs * v.shape[-1], *kept.values(), value)


def _shared_heads(tracer: Tracer, heads: Ids | None, queries: int) -> Ids | None:
    """Grouped-query attention: `queries` heads of q share one of k and v; a place among them may go in every group."""
    if queries == 1 or heads is None:
        return heads

    def shared() -> Ids:
        return tracer.labels.outer(heads, tracer.labels.fresh(queries, INNER)).ravel()

    return tracer.derived(heads, ("queries", queries), shared)


@operator("_softmax _log_softmax", shape=shapes.same)
@operator("_safe_softmax")
def softmax(tracer: Tracer, out: Tensor, x: Tensor, dim: int, *_: Any) -> None:
    """The axis that it normalises stays: its sum would be over fewer."""
    tracer.freeze(tracer.axis(x, dim), "normalised over this axis by")
    tracer.put(out, tracer.blocks(x))
