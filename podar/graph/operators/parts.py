"""Operators that join tensors or take them apart: cat, stack, slices, splits, padding."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators import shapes
from podar.graph.operators.elementwise import join
from podar.graph.operators.register import ALL, CARRIED, FIRST, operator
from podar.graph.operators.tracer import Tracer
from podar.graph.operators.views import same
from podar.graph.record import Block, Blocks
from podar.graph.sizes import Expr, Size


@operator("cat", shape=shapes.cat, zero=ALL, scales=ALL)
def cat(tracer: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    """Labels are joined along `dim`; along the others they meet."""
    tensors = [x for x in tensors if x.dim() == out.dim()]
    dim %= out.dim()
    parts = [tracer.axis(x, dim) for x in tensors]
    blocks: Blocks = ()
    if any(p is not None for p in parts):
        sizes = [x.shape[dim] for x in tensors]
        joined = np.concatenate([np.zeros(n, dtype=np.int64) if p is None else p for p, n in zip(parts, sizes)])
        blocks = (((dim,), joined),)
    rest = _without(tracer, tensors, dim, out)
    zero = all(tracer.mark(x).zero or not tracer.blocks(x) for x in tensors)
    tracer.put(out, tuple(sorted((*blocks, *rest), key=lambda b: b[0])), zero)


def _without(tracer: Tracer, tensors: Sequence[Tensor], dim: int, out: Tensor) -> Blocks:
    """Join the other dimensions of tensors that stand side by side along `dim`."""
    first, *others = ([b for b in tracer.blocks(x) if dim not in b[0]] for x in tensors)
    found = dict(first)
    for mine in others:
        if found.keys() != {dims for dims, _ in mine}:
            found = dict(f for block in found.items() for f in tracer.factors(block))
            mine = [f for block in mine for f in tracer.factors(block)]
        theirs = dict(mine)
        for dims in found.keys() ^ theirs.keys():
            tracer.freeze(found.pop(dims, theirs.get(dims)), "joined with an axis of fixed size by")
        for dims, ids in found.items():
            tracer.equal(ids, theirs[dims])
    return tuple(found.items())


@operator("stack", shape=shapes.stack, zero=ALL, scales=ALL)
def stack(tracer: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    """Tensors meet along all their axes; the new axis has no labels."""
    dim %= out.dim()
    blocks = join(tracer, tensors[0], tensors)
    moved = tuple((tuple(d + (d >= dim) for d in dims), ids) for dims, ids in blocks)
    tracer.put(out, moved, all(tracer.mark(x).zero for x in tensors))


@operator("select", position=2, zero=FIRST, scales=FIRST, statistic=CARRIED)
@operator("select_copy", position=2, zero=FIRST, scales=FIRST, statistic=CARRIED)
def select(tracer: Tracer, out: Tensor, x: Tensor, dim: int, index: int) -> None:
    """One index taken by its position: rows of a joint block go their own way, a plain axis stays whole."""
    dim %= x.dim()
    tracer.put(out, _selected(tracer, x, dim, index), tracer.mark(x).zero)


def _selected(tracer: Tracer, x: Tensor, dim: int, index: int) -> Blocks:
    blocks: list[Block] = []
    for dims, ids in tracer.blocks(x):
        if dim in dims:
            if len(dims) == 1:
                tracer.freeze(ids, "an index is taken by position at")
                continue
            k = dims.index(dim)
            stay(tracer, ids, k, [index])
            dims, ids = dims[:k] + dims[k + 1 :], row(tracer, ids, k, index)
        blocks.append((tuple(d - (d > dim) for d in dims), ids))
    return tuple(sorted(blocks, key=lambda b: b[0]))


def stay(tracer: Tracer, ids: Ids, axis: int, positions: list[int]) -> None:
    """Rows named by number keep their place: all before the last one stay, and all after the first from the end."""
    if tracer.fixed(ids)[axis]:
        return
    n = ids.shape[axis]
    ahead = max((p + 1 for p in positions if p >= 0), default=0)
    behind = min((n + p for p in positions if p < 0), default=n)
    for lo, hi in ((0, ahead), (behind, n)):
        if lo < hi:
            exprs: list[Expr | None] = [None] * ids.ndim
            exprs[axis] = hi - lo
            tracer.sizes.grid(_part(tracer, ids, axis, lo, hi), exprs, tracer.where)


def row(tracer: Tracer, ids: Ids, axis: int, index: int) -> Ids:
    """One row of an array of labels."""
    fixed = tracer.fixed(ids)

    def taken() -> Ids:
        return np.ascontiguousarray(ids.take(index, axis=axis))

    return tracer.derived(ids, (axis, index), taken, fixed[:axis] + fixed[axis + 1 :])


@operator("unbind unbind_copy", zero=FIRST, scales=FIRST, statistic=CARRIED)
def unbind(tracer: Tracer, out: Sequence[Tensor], x: Tensor, dim: int = 0) -> None:
    """Every index by itself: as many results as there are, so all stay."""
    for i, o in enumerate(out):
        tracer.put(o, _selected(tracer, x, dim % x.dim(), i), tracer.mark(x).zero)


@operator("slice narrow", zero=FIRST, scales=FIRST, statistic=CARRIED)
def slice_(
    tracer: Tracer, out: Tensor, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> None:
    """A part of an axis; where its bounds depend on sizes that change, they must follow."""
    dim %= x.dim()
    n = x.shape[dim]
    lo, hi, _ = slice(start, end, step).indices(n)
    if (lo, hi, step) == (0, n, 1):
        _narrowed_to_all(tracer, x, dim)
        same(tracer, out, x)
        return
    if step != 1 or lo >= hi:
        tracer.used_as_numbers([b for b in _bounds(tracer, dim) if isinstance(b, Size)], tracer.operator.name)
        _strided(tracer, out, x, dim, (lo, hi, step))
        return
    owner = next((b for b in tracer.blocks(x) if dim in b[0]), None)
    if owner is not None:
        axis = owner[0].index(dim)
        for bound, written in zip((lo, hi), _bounds(tracer, dim)):
            if not 0 < bound < n:
                continue
            from_end = written is not None and written < 0
            part = _part(tracer, owner[1], axis, bound, n) if from_end else _part(tracer, owner[1], axis, 0, bound)
            exprs: list[Expr | None] = [None] * part.ndim
            exprs[axis] = bound if written is None else tracer.sizes.expr(-written if from_end else written)
            tracer.sizes.grid(part, exprs, tracer.where)
    else:
        tracer.used_as_numbers([b for b in _bounds(tracer, dim) if isinstance(b, Size)], tracer.operator.name)
    tracer.put(out, _sliced(tracer, x, dim, lo, hi), tracer.mark(x).zero)


def _narrowed_to_all(tracer: Tracer, x: Tensor, dim: int) -> None:
    """`x.narrow(dim, 0, n)` refuses a length that the axis no longer has, where a slice would take what is there."""
    length = _bounds(tracer, dim)[1]
    if length is not None and tracer.call is not None and getattr(tracer.call[0], "__name__", "") == "narrow":
        for dims, ids in tracer.blocks(x):
            if dim in dims:
                exprs: list[Expr | None] = [None] * ids.ndim
                exprs[dims.index(dim)] = tracer.sizes.expr(length)
                tracer.sizes.grid(ids, exprs, tracer.where)


def _strided(tracer: Tracer, out: Tensor, x: Tensor, dim: int, chosen: tuple[int, int, int]) -> None:
    """Every other index (rotary positions pair them so): neighbours go together. Of an empty slice nothing is left."""
    lo, hi, step = chosen
    ids = tracer.axis(x, dim)  # a joint block is factored: what lies along other dimensions is free
    blocks = [b for b in tracer.blocks(x) if dim not in b[0]]
    if ids is not None and lo < hi:
        if len(ids) % step or lo >= step or len(range(lo, hi, step)) < len(ids) // step:
            tracer.freeze(ids, "every other index is taken at")
        else:
            tuples = ids.reshape(-1, step)
            tracer.labels.equal(tuples, np.broadcast_to(tuples[:, :1], tuples.shape))
            if len(tuples) > 1:
                blocks.append(((dim,), np.ascontiguousarray(tuples[:, 0])))
    tracer.put(out, tuple(sorted(blocks, key=lambda b: b[0])), tracer.mark(x).zero)


def _bounds(tracer: Tracer, dim: int) -> tuple[int | None, int | None]:
    """Start and stop as Python wrote them, in `x[..., a:b]` or `x.narrow(dim, a, n)`; below 0 they are from the end."""
    if tracer.call is None:
        return None, None
    func, args, _ = tracer.call
    name = getattr(func, "__name__", "")
    if name == "narrow" and len(args) == 4 and isinstance(args[2], int):
        for size in args[2:]:  # they are looked at as their sum
            tracer.sizes.expr(size)
        return args[2], args[2] + args[3]
    if name == "__getitem__":
        x, index = args[0], args[1] if isinstance(args[1], tuple) else (args[1],)
        if Ellipsis in [i for i in index if not isinstance(i, Tensor)]:
            k = next(i for i, v in enumerate(index) if v is Ellipsis)
            missing = x.dim() - sum(1 for v in index if v is not None and v is not Ellipsis)
            index = (*index[:k], *[slice(None)] * missing, *index[k + 1 :])
        plain = [v for v in index if v is not None]
        written = plain[dim] if dim < len(plain) and len(plain) <= x.dim() else None
        if isinstance(written, slice):
            start, stop = (v if isinstance(v, int) else None for v in (written.start, written.stop))
            return start, stop
    return None, None


def _part(tracer: Tracer, ids: Ids, axis: int, lo: int, hi: int) -> Ids:
    """Rows `lo` to `hi` of an array of labels."""

    def cut() -> Ids:
        chosen = tuple(slice(lo, hi) if k == axis else slice(None) for k in range(ids.ndim))
        return np.ascontiguousarray(ids[chosen])

    return tracer.derived(ids, (axis, lo, hi), cut, tracer.fixed(ids))


def _sliced(tracer: Tracer, x: Tensor, dim: int, lo: int, hi: int) -> Blocks:
    if hi - lo == 1 < x.shape[dim]:  # what is left will be broadcast: as if selected
        return tuple((tuple(d + (d >= dim) for d in dims), ids) for dims, ids in _selected(tracer, x, dim, lo))
    return tuple(
        (dims, _part(tracer, ids, dims.index(dim), lo, hi)) if dim in dims else (dims, ids)
        for dims, ids in tracer.blocks(x)
    )


@operator("split split_with_sizes", zero=FIRST, scales=FIRST, statistic=CARRIED)
@operator("split_copy split_with_sizes_copy unsafe_split unsafe_split_with_sizes", zero=FIRST, scales=FIRST)
def split(tracer: Tracer, out: Sequence[Tensor], x: Tensor, size: Any, dim: int = 0) -> None:
    """Parts sized by what Python wrote; `chunk` makes equal parts, which must stay equal."""
    dim %= x.dim()
    sizes = [o.shape[dim] for o in out]
    starts = list(itertools.accumulate([0, *sizes]))
    owner = next((b for b in tracer.blocks(x) if dim in b[0]), None)
    if owner is not None:
        _size_parts(tracer, owner, dim, sizes, starts)
    for o, lo, n in zip(out, starts, sizes):
        tracer.put(o, _sliced(tracer, x, dim, lo, lo + n), tracer.mark(x).zero)


def _size_parts(tracer: Tracer, owner: Block, dim: int, sizes: list[int], starts: list[int]) -> None:
    dims, ids = owner
    axis = dims.index(dim)
    func, args, kwargs = tracer.call or (None, (), {})
    name = getattr(func, "__name__", "")
    if name in ("chunk", "unsafe_chunk", "tensor_split"):
        if len(set(sizes)) > 1:
            for (d,), own in tracer.factors(owner):
                if d == dim:
                    tracer.freeze(own, "parts of unequal size at")
        else:
            # Equal parts, as the rows of a joint block.
            apart = ids.reshape([*ids.shape[:axis], len(sizes), sizes[0], *ids.shape[axis + 1 :]])
            exprs: list[Expr | None] = [None] * apart.ndim
            exprs[axis] = len(sizes)
            tracer.sizes.grid(apart, exprs, tracer.where)
        return
    written = kwargs.get("split_size_or_sections", kwargs.get("split_size", args[1] if len(args) > 1 else None))
    if isinstance(written, int):
        written = [written] * len(sizes)
    for k, (lo, n) in enumerate(zip(starts, sizes)):
        expr: Expr = n
        if isinstance(written, (list, tuple)) and len(written) == len(sizes) and isinstance(written[k], int):
            if n != written[k]:  # the last part is what is left
                continue
            expr = tracer.sizes.expr(written[k])
        exprs = [None] * ids.ndim
        exprs[axis] = expr
        tracer.sizes.grid(_part(tracer, ids, axis, lo, lo + n), exprs, tracer.where)


@operator("constant_pad_nd", shape=shapes.pad, position=1, zero=FIRST, scales=FIRST)
def pad(tracer: Tracer, out: Tensor, x: Tensor, amounts: Sequence[int], value: float = 0) -> None:
    """New indices around an axis always exist."""
    blocks: list[Block] = []
    for block in tracer.blocks(x):
        touched = [d for d in block[0] if (x.dim() - 1 - d) * 2 < len(amounts)]
        if not any(amounts[2 * (x.dim() - 1 - d)] or amounts[2 * (x.dim() - 1 - d) + 1] for d in touched):
            blocks.append(block)
            continue
        for (d,), ids in tracer.factors(block):
            k = 2 * (x.dim() - 1 - d)
            lo, hi = (amounts[k], amounts[k + 1]) if k < len(amounts) else (0, 0)
            if lo < 0 or hi < 0:
                tracer.freeze(ids, "cut by position at")
            zeros = [np.zeros(max(n, 0), dtype=np.int64) for n in (lo, hi)]
            cut = ids[max(-lo, 0) : len(ids) - max(-hi, 0)]
            blocks.append(((d,), np.concatenate([zeros[0], cut, zeros[1]])))
    tracer.put(out, tuple(blocks), tracer.mark(x).zero)
