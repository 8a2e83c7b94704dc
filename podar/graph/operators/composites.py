"""Rules for calls that are traced whole, as Python makes them: linear, attention, einsum."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from podar.graph.labels import INNER, Ids
from podar.graph.operators.arithmetic import axes_of, contract
from podar.graph.tracing.hollow import shaper
from podar.graph.tracing.tracer import Tracer, rule


@rule("linear")
def linear(tracer: Tracer, out: Tensor, x: Tensor, w: Tensor, bias: Tensor | None = None) -> None:
    """The last axis meets the weight's columns; its rows take its place."""
    last = x.dim() - 1
    inner = tracer.axis(x, last)
    tracer.meet(inner, w, 1)
    if inner is not None and not tracer.mark(x).zero and not tracer.mark(w).zero:
        tracer.freeze(inner, "a removed index would not be zero at")
    rows = tracer.axis(w, 0) if w.dim() == 2 else None
    if bias is not None:
        tracer.meet(rows, bias, 0)
    lead = tuple(b for b in tracer.blocks(x) if last not in b[0])
    both = tracer.mark(x).zero and tracer.mark(w).zero
    tracer.put(out, lead if rows is None else (*lead, ((last,), rows)), zero=both or not lead)
    axes = [ids for block in lead for _, ids in tracer.factors(block)]
    tracer.macs(math.prod(x.shape) * (w.shape[0] if w.dim() == 2 else 1), *axes, inner, rows)


@shaper("linear")
def linear_shape(x: Tensor, w: Tensor, bias: Tensor | None = None) -> Tensor:
    if x.shape[-1] != w.shape[-1]:
        raise RuntimeError(f"a linear layer for {w.shape[-1]} inputs got {tuple(x.shape)}")
    return x.new_empty([*x.shape[:-1], *w.shape[:-1]])


@rule("scaled_dot_product_attention")
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
            tracer.record.scales.append((tracer.stack[-1], inner, (tracer.mark(q).makers, tracer.mark(k).makers)))
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
    key = (id(heads), "queries", queries)
    if key not in tracer.rows:
        places = tracer.labels.fresh(queries, INNER)
        tracer.rows[key] = (heads, tracer.labels.outer(heads, places).ravel())
    return tracer.rows[key][1]


@shaper("scaled_dot_product_attention")
def attention_shape(q: Tensor, k: Tensor, v: Tensor, *_: Any, **__: Any) -> Tensor:
    """Laid out as the fused kernels do it: positions before heads."""
    if q.shape[-1] != k.shape[-1] or k.shape[-2] != v.shape[-2]:
        raise RuntimeError(f"attention got q {tuple(q.shape)}, k {tuple(k.shape)} and v {tuple(v.shape)}")
    if q.dim() < 4:
        return q.new_empty(*q.shape[:-1], v.shape[-1])
    lead = torch.broadcast_shapes(q.shape[:-3], k.shape[:-3], v.shape[:-3])
    return q.new_empty(*lead, q.shape[-2], q.shape[-3], v.shape[-1]).transpose(-2, -3)


def _letters(equation: str, operands: Sequence[Tensor]) -> tuple[list[str], str]:
    """Letters of every operand and of the result; an ellipsis becomes capital letters that nothing else uses."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    spare = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZ" if c not in equation]
    widest = max((t.dim() - len(term) + 3 for t, term in zip(operands, terms) if "..." in term), default=0)
    dots = "".join(spare[:widest])
    full = []
    for t, term in zip(operands, terms):
        own = t.dim() - len(term) + 3
        full.append(term.replace("...", dots[widest - own :]) if "..." in term else term)
    if not arrow:
        once = sorted(c for c in set("".join(terms)) - {"."} if "".join(terms).count(c) == 1)
        return full, dots + "".join(once)
    return full, right.replace("...", dots)


@rule("einsum")
def einsum(tracer: Tracer, out: Tensor, equation: str, *given: Any) -> None:
    """Axes of one letter go together; a letter that is summed must be zero where it is removed."""
    operands: list[Tensor] = list(given[0]) if isinstance(given[0], (list, tuple)) else list(given)
    terms, result = _letters(equation, operands)
    sizes: dict[str, int] = {}
    for t, term in zip(operands, terms):
        for c, n in zip(term, t.shape):
            sizes[c] = max(sizes.get(c, 1), n)
    labels: dict[str, Ids | None] = {}
    zeros: dict[str, bool] = {}
    for t, term in zip(operands, terms):
        for d, c in enumerate(term):
            if t.shape[d] < sizes[c]:
                continue  # broadcast
            ids = tracer.axis(t, d)
            if c in labels:
                tracer.equal(labels[c], ids)
            labels[c] = ids if labels.get(c) is None else labels[c]
            zeros[c] = zeros.get(c, False) or tracer.mark(t).zero
    for c, ids in labels.items():
        if c not in result and ids is not None and not zeros[c]:
            tracer.freeze(ids, "a removed index would not be zero at")
    kept = {d: labels.get(c) for d, c in enumerate(result)}
    tracer.put(out, axes_of(kept), zero=all(zeros[c] for c in result if labels.get(c) is not None))
    for n in range(1, len(operands)):  # pair by pair, from left to right
        own = set("".join(terms[: n + 1])) if n == 1 else set(terms[n]) | set(result)
        tracer.macs(math.prod(sizes[c] for c in own), *(labels.get(c) for c in sorted(own)))


@shaper("einsum")
def einsum_shape(equation: str, *given: Any) -> Any:
    operands: list[Tensor] = list(given[0]) if isinstance(given[0], (list, tuple)) else list(given)
    terms, result = _letters(equation, operands)
    sizes: dict[str, int] = {}
    for t, term in zip(operands, terms):
        for c, n in zip(term, t.shape):
            if n != 1 and sizes.get(c, 1) not in (1, n):
                raise RuntimeError(f"einsum {equation} got sizes {sizes[c]} and {n} for {c}")
            sizes[c] = max(sizes.get(c, 1), n)
    return operands[0].new_empty([sizes[c] for c in result])
