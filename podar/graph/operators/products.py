"""Products of matrices: linear layers, batches of products, einsum; contracted axes meet."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators import shapes
from podar.graph.operators.elementwise import join
from podar.graph.operators.register import ANY, WEIGHT, Compared, operator
from podar.graph.operators.tracer import Tracer
from podar.graph.record import Blocks, Form


@operator(
    "linear",
    shape=shapes.linear,
    zero=(1, 2),
    scales=(1, 2),
    counts=True,
    whole=True,
    arguments=("input", "weight", "bias"),
)
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
    form = Form(x.shape, w.shape, (), inner, rows) if w.dim() == 2 else None
    tracer.macs(math.prod(x.shape) * (w.shape[0] if w.dim() == 2 else 1), *axes, inner, rows, form=form)


@operator("mm", shape=shapes.mm, zero=ANY, scales=WEIGHT, counts=True, compared=Compared.WITHOUT_LAYOUT)
@operator("_sparse_mm", counts=True, whole=True)
def mm(tracer: Tracer, out: Tensor, a: Tensor, b: Tensor, *_: Any) -> None:
    """The contracted axes meet; rows come from a, columns from b."""
    contract(tracer, a, 1, b, 0)
    rows, inner, columns = tracer.axis(a, 0), tracer.axis(a, 1), tracer.axis(b, 1)
    zero = (rows is None or tracer.mark(a).zero) and (columns is None or tracer.mark(b).zero)
    tracer.put(out, axes_of({0: rows, 1: columns}), zero)
    entries = a.shape[0] * a.shape[1] if a.layout is torch.strided else a._nnz()
    tracer.macs(entries * b.shape[1], rows, inner, columns)


@operator("addmm", shape=shapes.addmm, zero=(0, 2), scales=(0, 2), counts=True, compared=Compared.WITHOUT_LAYOUT)
@operator("_sparse_addmm", counts=True)
def addmm(tracer: Tracer, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> None:
    """A linear layer."""
    mm(tracer, out, a, b)
    product = tracer.blocks(out)
    d = 1 - (out.dim() - bias.dim())
    tracer.equal(tracer.axis(out, 1), tracer.axis(bias, d))
    tracer.put(out, product, zero=tracer.mark(out).zero)


@operator("bmm", shape=shapes.bmm, zero=ANY, scales=WEIGHT, counts=True, compared=Compared.WITHOUT_LAYOUT)
def bmm(tracer: Tracer, out: Tensor, a: Tensor, b: Tensor) -> None:
    """Batch axes meet, contracted axes meet."""
    batch = (tracer.axis(a, 0), tracer.axis(b, 0))
    tracer.equal(*batch)
    contract(tracer, a, 2, b, 1)
    rows, inner, columns = tracer.axis(a, 1), tracer.axis(a, 2), tracer.axis(b, 2)
    za, zb = tracer.mark(a).zero, tracer.mark(b).zero
    zero = (batch[0] is None or za or zb) and (rows is None or za) and (columns is None or zb)
    tracer.put(out, axes_of({0: batch[0], 1: rows, 2: columns}), zero=zero)
    tracer.macs(a.shape[0] * a.shape[1] * a.shape[2] * b.shape[2], batch[0], rows, inner, columns)


@operator("baddbmm", shape=shapes.baddbmm, scales=WEIGHT, counts=True)
def baddbmm(tracer: Tracer, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> None:
    """A batch of products, and something added."""
    bmm(tracer, out, a, b)
    mark = tracer.mark(out)
    tracer.put(out, join(tracer, out, [out, bias]), zero=mark.zero and not tracer.labelled(bias))


@operator("addmv mv dot vdot inner")
def vectors(tracer: Tracer, out: Tensor, *args: Any, **_: Any) -> None:
    """Rare: freeze rather than reason."""
    for t in args:
        tracer.freeze_all(t, "multiplied with a vector at")


@operator("addbmm addr")
def rare_products(tracer: Tracer, out: Tensor, *args: Any, **_: Any) -> None:
    """Rare: freeze rather than reason."""
    for t in args:
        tracer.freeze_all(t, "summed over the batch by")
    tracer.put(out, ())


@operator("_grouped_mm", shape=shapes.grouped_mm, scales=WEIGHT, counts=True)
def grouped_mm(
    tracer: Tracer, out: Tensor, a: Tensor, b: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any
) -> None:
    """Rows of `a` (tokens, sorted by expert) times the matrix of their expert, (experts, inner, columns)."""
    if a.dim() != 2 or b.dim() != 3:
        for t in (a, b):
            tracer.freeze_all(t, "groups of")
        tracer.put(out, ())
        return
    tracer.freeze(tracer.axis(a, 0), "sorted by expert at")
    tracer.freeze(tracer.axis(b, 0), "experts of")
    tracer.freeze_all(offsets, "used as an index at")
    inner: Ids | None = tracer.axis(a, 1)
    tracer.equal(inner, tracer.axis(b, 1))
    za, zb = tracer.mark(a).zero, tracer.mark(b).zero
    if inner is not None and not za and not zb:
        tracer.freeze(inner, "a removed index would not be zero at")
    columns = tracer.axis(b, 2)
    tracer.put(out, axes_of({1: columns}), zero=zb)
    tracer.macs(a.shape[0] * a.shape[1] * b.shape[2], inner, columns)


@operator("einsum", shape=shapes.einsum, scales=WEIGHT, counts=True, whole=True)
def einsum(tracer: Tracer, out: Tensor, equation: str, *given: Any) -> None:
    """Axes of one letter go together; a letter that is summed must be zero where it is removed."""
    operands: list[Tensor] = list(given[0]) if isinstance(given[0], (list, tuple)) else list(given)
    terms, result = shapes.letters(equation, operands)
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


def contract(tracer: Tracer, a: Tensor, da: int, b: Tensor, db: int) -> None:
    """Unify a contracted axis. Where no parameter's slice goes with it, an index must be zero in one factor to go."""
    ia, ib = tracer.axis(a, da), tracer.axis(b, db)
    tracer.equal(ia, ib)
    if ia is not None and not tracer.mark(a).zero and not tracer.mark(b).zero:
        tracer.freeze(ia, "a removed index would not be zero at")


def axes_of(axes: dict[int, Ids | None]) -> Blocks:
    """Blocks of one dimension each; None where a dimension has no labels."""
    return tuple(((d,), ids) for d, ids in sorted(axes.items()) if ids is not None)
