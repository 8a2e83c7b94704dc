"""Operators that move or pick indices along an axis: rolls, scans, lookups in tensors and tables, strided reads."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators import shapes
from podar.graph.operators.marks import is_mask
from podar.graph.operators.parts import row, stay
from podar.graph.operators.products import axes_of
from podar.graph.operators.register import FIRST, operator
from podar.graph.operators.tracer import Tracer
from podar.graph.operators.views import same
from podar.graph.record import Block, Blocks


@operator("roll", shape=shapes.same, position=1, zero=FIRST, scales=FIRST)
@operator("flip", shape=shapes.same, zero=FIRST, scales=FIRST)
@operator("tril triu", position=1, zero=FIRST, scales=FIRST)
@operator("cumsum", zero=FIRST, scales=FIRST)
@operator("cumprod sort topk argsort _fft_r2c _fft_c2r _fft_c2c")
def along(tracer: Tracer, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Reorders or mixes positions of some axes; these stay whole, the others keep their labels."""
    outs = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(o, Tensor)]
    name = tracer.operator.name
    place = 1 if name in ("roll", "topk") else 0
    dims = kwargs.get("dims", kwargs.get("dim", args[place] if len(args) > place else -1))
    if name in ("tril", "triu"):
        dims = (-1, -2)
    moved = {d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)}
    for d in moved:
        tracer.freeze(tracer.axis(x, d), "indices change places at")
    kept = tuple(b for b in tracer.blocks(x) if not moved & set(b[0]))
    for o in outs:
        tracer.put(o, kept, tracer.mark(x).zero and o is outs[0])


@operator("index _unsafe_index", masks=1, zero=FIRST, scales=FIRST)
def index(tracer: Tracer, out: Tensor, x: Tensor, indices: Sequence[Tensor | None]) -> None:
    """Looked-up axes stay whole where they must; the others keep their labels. A mask takes as many axes as it has."""
    chosen: list[int] = []
    given: list[Tensor] = []
    at = 0
    for i in indices:
        width = i.dim() if i is not None and is_mask(i) else 1
        if i is not None:
            chosen += range(at, at + width)
            given.append(i)
        at += width
    positions = _positions(given[0]) if len(given) == 1 and len(chosen) == 1 and _known(tracer, given[0]) else None
    if positions is not None:
        tracer.put(out, _picked(tracer, x, chosen[0], positions), tracer.mark(x).zero)
        return
    for d in chosen:
        tracer.freeze(tracer.axis(x, d), "looked up by position at")
    for i in given:
        for _, ids in tracer.blocks(i):
            tracer.freeze(ids, "used as an index at")
    rank = out.dim() - (x.dim() - len(chosen))
    together = chosen == list(range(chosen[0], chosen[0] + len(chosen)))
    start = chosen[0] if together else 0
    left = [d for d in range(x.dim()) if d not in chosen]
    place = {d: (i if i < start else i + rank) for i, d in enumerate(left)}
    moved = [(tuple(place[d] for d in dims), ids) for dims, ids in tracer.blocks(x) if all(d in place for d in dims)]
    tracer.put(out, tuple(sorted(moved, key=lambda b: b[0])), tracer.mark(x).zero)


def _known(tracer: Tracer, where: Tensor) -> bool:
    """Whether these positions are numbers of the program's own, a few of them.

    Once the model has read values, any number may stem from them.
    """
    known = where.dim() == 1 and where.numel() <= 4096 and not tracer.mark(where).hollow
    return known and not tracer.record.decisions and (where.dtype is torch.int64 or is_mask(where))


def _positions(where: Tensor) -> list[int]:
    if is_mask(where):
        where = where.nonzero().flatten()
    return [int(i) for i in where.tolist()]


def _picked(tracer: Tracer, x: Tensor, dim: int, positions: list[int]) -> Blocks:
    """Indices taken by their numbers, which must go on to mean the same."""
    blocks: list[Block] = []
    for dims, ids in tracer.blocks(x):
        if dim not in dims:
            blocks.append((dims, ids))
            continue
        axis, n = dims.index(dim), x.shape[dim]
        if len(dims) == 1:
            tracer.freeze(ids[: max((p + 1 for p in positions if p >= 0), default=0)], "looked up by position at")
            tracer.freeze(ids[min((n + p for p in positions if p < 0), default=n) :], "looked up by position at")
        else:
            stay(tracer, ids, axis, positions)
        if len(positions) > 1:
            blocks.append((dims, _taken(tracer, ids, axis, positions)))
        elif len(dims) > 1:  # an axis of one index is broadcast
            blocks.append((dims[:axis] + dims[axis + 1 :], row(tracer, ids, axis, positions[0])))
    return tuple(sorted(blocks, key=lambda b: b[0]))


def _taken(tracer: Tracer, ids: Ids, axis: int, positions: list[int]) -> Ids:
    def take() -> Ids:
        return np.ascontiguousarray(ids.take(positions, axis=axis))

    return tracer.derived(ids, (axis, "of", *positions), take, tracer.fixed(ids))


@operator("unfold unfold_copy", zero=FIRST, scales=FIRST)
def unfold(tracer: Tracer, out: Tensor, x: Tensor, dim: int, *_: Any) -> None:
    """Windows over one axis: they become a new one, at the end."""
    dim %= max(x.dim(), 1)
    tracer.freeze(tracer.axis(x, dim), "positions of")
    tracer.put(out, tuple(b for b in tracer.blocks(x) if dim not in b[0]), tracer.mark(x).zero)


@operator("index_select", zero=FIRST, scales=FIRST)
def index_select(tracer: Tracer, out: Tensor, x: Tensor, dim: int, _: Tensor) -> None:
    """Indices of one axis are taken by their numbers; the others keep their labels."""
    dim %= x.dim()
    tracer.freeze(tracer.axis(x, dim), "looked up by position at")
    tracer.put(out, tuple(b for b in tracer.blocks(x) if dim not in b[0]), tracer.mark(x).zero)


@operator("gather", zero=FIRST, scales=FIRST)
def gather(tracer: Tracer, out: Tensor, x: Tensor, dim: int, where: Tensor, **_: Any) -> None:
    """Along `dim` there are as many results as positions are given; elsewhere both sides meet."""
    dim %= x.dim()
    tracer.freeze(tracer.axis(x, dim), "looked up by position at")
    for d in range(x.dim()):
        a, b = tracer.axis(x, d), tracer.axis(where, d)
        if d != dim and (a is not None or b is not None):
            tracer.equal(a, b)
    blocks, picked = [b for b in tracer.blocks(x) if dim not in b[0]], tracer.axis(where, dim)
    if picked is not None:
        blocks.append(((dim,), picked))
    tracer.put(out, tuple(sorted(blocks, key=lambda b: b[0])), tracer.mark(x).zero and picked is None)


@operator("as_strided", in_place=True, zero=FIRST)
def as_strided(tracer: Tracer, out: Tensor, x: Tensor, size: Sequence[int], *_: Any) -> None:
    """The same shape with other strides (channels_last pooling) changes nothing; anything else may mix indices."""
    if out is x:
        return
    if tuple(size) == tuple(x.shape):
        same(tracer, out, x)
        return
    for _, ids in tracer.blocks(x):
        tracer.freeze(ids, "memory is read by stride at")


@operator("embedding", zero=FIRST)
def embedding(tracer: Tracer, out: Tensor, w: Tensor, index: Tensor, *_: Any) -> None:
    """Rows are looked up and stay; columns are channels."""
    tracer.freeze(tracer.axis(w, 0), "rows looked up by")
    for _, ids in tracer.blocks(index):
        tracer.freeze(ids, "positions of")
    tracer.put(out, axes_of({out.dim() - 1: tracer.axis(w, 1)}), tracer.mark(w).zero)


@operator("embedding_bag _embedding_bag _embedding_bag_forward_only")
def embedding_bag(tracer: Tracer, out: Any, w: Tensor, index: Tensor, *_: Any, **__: Any) -> None:
    """Rows are looked up and added up; columns are channels."""
    tracer.freeze(tracer.axis(w, 0), "rows looked up by")
    tracer.freeze_all(index, "positions of")
    y = out[0] if isinstance(out, (list, tuple)) else out
    tracer.put(y, axes_of({y.dim() - 1: tracer.axis(w, 1)}), tracer.mark(w).zero)


@operator("segment_reduce")
def segment_reduce(tracer: Tracer, out: Tensor, x: Tensor, how: str, *_: Any, axis: int = 0, **__: Any) -> None:
    """Rows are gathered segment by segment; channels pass. The largest of no rows is not zero."""
    tracer.freeze(tracer.axis(x, axis), "gathered by segment at")
    own = {d: tracer.axis(x, d) for d in range(x.dim()) if d != axis % x.dim()}
    tracer.put(out, axes_of(own), tracer.mark(x).zero and how == "sum")


@operator("cummax cummin logcumsumexp")
def running(tracer: Tracer, out: Any, x: Tensor, dim: int, *_: Any) -> None:
    """Every index looks at those before it."""
    tracer.freeze(tracer.axis(x, dim), "indices change places at")
    for o in out if isinstance(out, (list, tuple)) else (out,):
        tracer.put(o, tuple(b for b in tracer.blocks(x) if dim % x.dim() not in b[0]))
