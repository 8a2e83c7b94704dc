"""One short rule per ATen operator that moves indices: views, permutations, joins, slices, lookups, new tensors."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.rules import join
from podar.graph.sizes import Expr
from podar.graph.trace import Block, Blocks, Tracer, rule

SIZED = {"view", "reshape", "expand", "repeat", "_unsafe_view", "broadcast_to"}
CREATED = {"zeros", "ones", "empty", "full", "rand", "randn", "new_zeros", "new_ones", "new_empty", "new_full"}


def written_sizes(tracer: Tracer, rank: int) -> list[Expr | None]:
    """The sizes that Python wrote for the call under way; None for −1, and where torch computed them itself."""
    nothing: list[Expr | None] = [None] * rank
    if tracer.call is None:
        return nothing
    func, args, kwargs = tracer.call
    name = getattr(func, "__name__", "")
    if name == "unflatten":
        dim: int = kwargs.get("dim", args[1] if len(args) > 1 else 0)
        sizes: Sequence[int] = kwargs.get("sizes", args[2] if len(args) > 2 else ())
        start = dim % (rank - len(sizes) + 1)
        return nothing[:start] + _exprs(tracer, sizes) + nothing[start + len(sizes) :]
    if name not in SIZED | CREATED:
        return nothing
    written = [a for a in args if not isinstance(a, Tensor)]
    if name in ("full", "new_full"):
        written = written[:1]
    shape = kwargs.get(
        "shape", kwargs.get("size", written[0] if written and not isinstance(written[0], int) else written)
    )
    if not isinstance(shape, (tuple, list)) or len(shape) != rank or not all(isinstance(v, int) for v in shape):
        return nothing
    return _exprs(tracer, shape)


def _exprs(tracer: Tracer, sizes: Sequence[int]) -> list[Expr | None]:
    return [None if int(v) == -1 else tracer.sizes.expr(v) for v in sizes]


@rule("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy")
def view(tracer: Tracer, out: Tensor, x: Tensor, *_: Any) -> None:
    """Axes merge and split; the sizes that Python wrote become constraints."""
    blocks = reshape(tracer, tuple(x.shape), x, tuple(out.shape))
    if blocks:
        exprs = written_sizes(tracer, out.dim())
        for dims, ids in blocks:
            chosen = [exprs[d] for d in dims]
            if len(dims) > 1:
                tracer.fixed[id(ids)] = tuple(isinstance(e, int) for e in chosen)
            if len(dims) > 1 or chosen[0] is not None:
                tracer.sizes.grid(ids, chosen, tracer.where)
    tracer.put(out, blocks, tracer.mark(x).zero)


def reshape(tracer: Tracer, before: tuple[int, ...], x: Tensor, after: tuple[int, ...]) -> Blocks:
    """Labels of `x` under another shape with the same elements in the same order."""
    if not tracer.blocks(x) or math.prod(before) == 0:
        return ()
    groups = _aligned(before, after)
    moved = {g[0][0]: g[1][0] for g in groups if len(g[0]) == len(g[1]) == 1}
    for dims, _ in list(tracer.blocks(x)):
        inside = any(set(dims) <= set(g[0]) for g in groups)
        if len(dims) > 1 and (not all(d in moved for d in dims)) and not (inside and list(dims) == sorted(dims)):
            tracer.split(x, dims)
    found: list[Block] = []
    for dims, ids in tracer.blocks(x):
        if all(d in moved for d in dims):
            found.append((tuple(moved[d] for d in dims), ids))
    for source, target in groups:
        if len(source) == len(target) == 1:
            continue
        inside = sorted(b for b in tracer.blocks(x) if b[0][0] in source)
        if inside:
            joint = _joint(tracer, inside, source, before)
            found += _varying(tracer, joint.reshape([after[d] for d in target]), target)
    return tuple(sorted(found, key=lambda b: b[0]))


def _aligned(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[list[int], list[int]]]:
    """The finest groups of input and output dimensions with equal products."""
    groups: list[tuple[list[int], list[int]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        source, target, a, b = [], [], 1, 1
        if i < len(before):
            source, a, i = [i], before[i], i + 1
        if j < len(after):
            target, b, j = [j], after[j], j + 1
        while a != b:
            if a < b:
                source, a, i = [*source, i], a * before[i], i + 1
            else:
                target, b, j = [*target, j], b * after[j], j + 1
        groups.append((source, target))
    return groups


def _joint(tracer: Tracer, blocks: list[Block], dims: list[int], shape: tuple[int, ...]) -> Ids:
    """One array of labels over several dimensions, from the blocks that lie over some of them."""
    own, ids = blocks[0]
    for more, other in blocks[1:]:
        ids = tracer.labels.outer(ids.ravel(), other.ravel()).reshape(ids.shape + other.shape)
        own = own + more
    order = np.argsort(own)
    ids = ids.transpose(order)
    own = tuple(sorted(own))
    full = ids.reshape([shape[d] if d in own else 1 for d in dims])
    return np.ascontiguousarray(np.broadcast_to(full, [shape[d] for d in dims]))


def _varying(tracer: Tracer, ids: Ids, dims: list[int]) -> list[Block]:
    """Drop the dimensions along which labels repeat, and take factored labels apart again."""
    keep = []
    for k in range(ids.ndim):
        first = ids.take([0], axis=k)
        if ids.shape[k] > 1 and not (ids == first).all():
            keep.append(k)
        else:
            ids = first
    ids = ids.reshape([ids.shape[k] for k in keep])
    own = tuple(dims[k] for k in keep)
    if not ids.any():
        return []
    if len(own) == 1:
        return [(own, ids)]
    axes = _separated(tracer, ids)
    return [(own, ids)] if axes is None else [((d,), a) for d, a in zip(own, axes)]


def _separated(tracer: Tracer, ids: Ids) -> list[Ids] | None:
    """The axes of labels {H_i, D_j} that were once joined, or None where they were not."""
    if ids.ndim == 1:
        return [ids]
    parts = tracer.labels.parts(ids)
    if parts is None:
        return None
    left, right = parts
    last = right.reshape(-1, ids.shape[-1])
    if (left != left[..., :1]).any() or (last != last[:1]).any():
        return None
    rest = _separated(tracer, np.ascontiguousarray(left[..., 0]))
    return None if rest is None else [*rest, np.ascontiguousarray(last[0])]


@rule("permute", "permute_copy")
def permute(tracer: Tracer, out: Tensor, x: Tensor, dims: Sequence[int]) -> None:
    place = {d % x.dim(): i for i, d in enumerate(dims)}
    tracer.put(out, _moved(tracer, x, place), tracer.mark(x).zero)


@rule("t", "t_", "numpy_T")
def t(tracer: Tracer, out: Tensor, x: Tensor) -> None:
    tracer.put(out, _moved(tracer, x, {0: x.dim() - 1, x.dim() - 1: 0}), tracer.mark(x).zero)


@rule("transpose", "transpose_", "swapaxes", "transpose_copy")
def transpose(tracer: Tracer, out: Tensor, x: Tensor, a: int, b: int) -> None:
    a, b = a % x.dim(), b % x.dim()
    tracer.put(out, _moved(tracer, x, {**{d: d for d in range(x.dim())}, a: b, b: a}), tracer.mark(x).zero)


def _moved(tracer: Tracer, x: Tensor, place: dict[int, int]) -> Blocks:
    moved = [(tuple(place[d] for d in dims), ids) for dims, ids in tracer.blocks(x)]
    return tuple(sorted(moved, key=lambda b: b[0]))


@rule("unsqueeze", "unsqueeze_")
def unsqueeze(tracer: Tracer, out: Tensor, x: Tensor, dim: int) -> None:
    dim %= out.dim()
    moved = tuple((tuple(d + (d >= dim) for d in dims), ids) for dims, ids in tracer.blocks(x))
    tracer.put(out, moved, tracer.mark(x).zero)


@rule("squeeze", "squeeze_", "squeeze_copy")
def squeeze(tracer: Tracer, out: Tensor, x: Tensor, *dims: Any) -> None:
    chosen = range(x.dim()) if not dims else [dims[0]] if isinstance(dims[0], int) else dims[0]
    gone = {d % x.dim() for d in chosen if x.shape[d] == 1}
    place = {d: i for i, d in enumerate(d for d in range(x.dim()) if d not in gone)}
    tracer.put(out, _moved(tracer, x, place), tracer.mark(x).zero)


@rule("alias", "detach", "lift_fresh", "contiguous")
def same(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)


@rule("expand", "expand_copy")
def expand(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    """A repeated axis whose size an attribute decides gets atoms: query heads that share one key may go."""
    shift = out.dim() - x.dim()
    blocks = tuple((tuple(d + shift for d in dims), ids) for dims, ids in tracer.blocks(x))
    tracer.put(out, blocks, tracer.mark(x).zero)
    exprs = written_sizes(tracer, out.dim())
    for d, expr in enumerate(exprs):
        owner = next(((dims, ids) for dims, ids in blocks if d in dims), None)
        if expr is None:
            continue
        if owner is not None:
            if len(owner[0]) == 1:
                tracer.sizes.grid(owner[1], (expr,), tracer.where)
        elif out.shape[d] > 1 and (d < shift or x.shape[d - shift] == 1):
            tracer.put(out, (*tracer.blocks(out), *_new_axis(tracer, out, d, expr)), tracer.mark(x).zero)
    tracer.mark(out).blocks = tuple(sorted(tracer.blocks(out), key=lambda b: b[0]))


def _new_axis(tracer: Tracer, out: Tensor, dim: int, expr: Expr | None) -> list[Block]:
    """Atoms for an axis that the model sized by itself, where something it remembers decided the size."""
    if expr is None or isinstance(expr, int) or out.shape[dim] <= 1:
        return []
    ids = tracer.labels.fresh(out.shape[dim])
    tracer.sizes.grid(ids, (expr,), tracer.where)
    return [((dim,), ids)]


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "rand", "randn")
def created(tracer: Tracer, out: Tensor, *_: Any, **__: Any) -> None:
    """A new tensor follows the sizes it was made with."""
    exprs = written_sizes(tracer, out.dim())
    blocks = [b for d, e in enumerate(exprs) for b in _new_axis(tracer, out, d, e)]
    tracer.put(out, tuple(blocks), zero=tracer.operator.endswith("zeros"))


@rule("zeros_like", "ones_like", "full_like", "empty_like", "rand_like", "randn_like")
def like(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    tracer.put(out, tracer.blocks(x), zero=tracer.operator == "zeros_like")


@rule("cat")
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


@rule("stack")
def stack(tracer: Tracer, out: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> None:
    dim %= out.dim()
    blocks = join(tracer, tensors[0], tensors)
    moved = tuple((tuple(d + (d >= dim) for d in dims), ids) for dims, ids in blocks)
    tracer.put(out, moved, all(tracer.mark(x).zero for x in tensors))


@rule("select", "select_copy")
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
            _stay(tracer, ids, k, [index])
            dims, ids = dims[:k] + dims[k + 1 :], _row(tracer, ids, k, index)
        blocks.append((tuple(d - (d > dim) for d in dims), ids))
    return tuple(sorted(blocks, key=lambda b: b[0]))


def _stay(tracer: Tracer, ids: Ids, axis: int, positions: list[int]) -> None:
    """Rows named by number keep their place: all before the last one stay, and all after the first from the end."""
    if tracer.fixed.get(id(ids), (False,) * ids.ndim)[axis]:
        return
    n = ids.shape[axis]
    ahead = max((p + 1 for p in positions if p >= 0), default=0)
    behind = min((n + p for p in positions if p < 0), default=n)
    for lo, hi in ((0, ahead), (behind, n)):
        if lo < hi:
            exprs: list[Expr | None] = [None] * ids.ndim
            exprs[axis] = hi - lo
            tracer.sizes.grid(_part(tracer, ids, axis, lo, hi), exprs, tracer.where)


def _row(tracer: Tracer, ids: Ids, axis: int, index: int) -> Ids:
    """The same array for the same row, so that what is factored once is not factored again."""
    key = (id(ids), axis, index)
    if key not in tracer.rows:
        row = np.ascontiguousarray(ids.take(index, axis=axis))
        fixed = tracer.fixed.get(id(ids), (False,) * ids.ndim)
        tracer.rows[key], tracer.fixed[id(row)] = (ids, row), fixed[:axis] + fixed[axis + 1 :]
    return tracer.rows[key][1]


@rule("unbind", "unbind_copy")
def unbind(tracer: Tracer, out: Sequence[Tensor], x: Tensor, dim: int = 0) -> None:
    for i, o in enumerate(out):
        tracer.put(o, _selected(tracer, x, dim % x.dim(), i), tracer.mark(x).zero)  # as many as there are: all stay


@rule("slice", "narrow")
def slice_(
    tracer: Tracer, out: Tensor, x: Tensor, dim: int = 0, start: Any = None, end: Any = None, step: int = 1
) -> None:
    """A part of an axis; where its bounds depend on sizes that change, they must follow."""
    dim %= x.dim()
    n = x.shape[dim]
    lo, hi, _ = slice(start, end, step).indices(n)
    if (lo, hi, step) == (0, n, 1):
        same(tracer, out, x)
        return
    if step != 1 or lo >= hi:
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
    tracer.put(out, _sliced(tracer, x, dim, lo, hi), tracer.mark(x).zero)


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
    key = (id(ids), axis, lo, hi)
    if key not in tracer.rows:
        chosen = tuple(slice(lo, hi) if k == axis else slice(None) for k in range(ids.ndim))
        part = np.ascontiguousarray(ids[chosen])
        tracer.rows[key], tracer.fixed[id(part)] = (ids, part), tracer.fixed.get(id(ids), (False,) * ids.ndim)
    return tracer.rows[key][1]


def _sliced(tracer: Tracer, x: Tensor, dim: int, lo: int, hi: int) -> Blocks:
    if hi - lo == 1 < x.shape[dim]:  # what is left will be broadcast: as if selected
        return tuple((tuple(d + (d >= dim) for d in dims), ids) for dims, ids in _selected(tracer, x, dim, lo))
    return tuple(
        (dims, _part(tracer, ids, dims.index(dim), lo, hi)) if dim in dims else (dims, ids)
        for dims, ids in tracer.blocks(x)
    )


@rule("split", "split_with_sizes", "split_copy", "split_with_sizes_copy", "unsafe_split", "unsafe_split_with_sizes")
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
            if n != int(written[k]):  # the last part is what is left
                continue
            expr = tracer.sizes.expr(written[k])
        exprs = [None] * ids.ndim
        exprs[axis] = expr
        tracer.sizes.grid(_part(tracer, ids, axis, lo, lo + n), exprs, tracer.where)


@rule("constant_pad_nd")
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


@rule("repeat")
def repeat(tracer: Tracer, out: Tensor, x: Tensor, repeats: Sequence[int]) -> None:
    """Labels repeat with their indices."""
    shift = out.dim() - x.dim()
    blocks: list[Block] = []
    for d in range(x.dim()):
        ids = tracer.axis(x, d)
        if ids is not None:
            blocks.append(((d + shift,), np.tile(ids, repeats[d + shift])))
    tracer.put(out, tuple(blocks), tracer.mark(x).zero)
    exprs = written_sizes(tracer, out.dim())
    taken = {d for dims, _ in blocks for d in dims}
    for d, expr in enumerate(exprs):
        if d not in taken and (d < shift or x.shape[d - shift] == 1):
            blocks += _new_axis(tracer, out, d, expr)
    tracer.put(out, tuple(sorted(blocks, key=lambda b: b[0])), tracer.mark(x).zero)


@rule(
    "roll", "flip", "cumsum", "cumprod", "sort", "topk", "argsort", "tril", "triu", "_fft_r2c", "_fft_c2r", "_fft_c2c"
)
def along(tracer: Tracer, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Reorders or mixes positions of some axes; these stay whole, the others keep their labels."""
    outs = [o for o in (out if isinstance(out, (tuple, list)) else (out,)) if isinstance(o, Tensor)]
    name = tracer.operator
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


@rule("index", "_unsafe_index")
def index(tracer: Tracer, out: Tensor, x: Tensor, indices: Sequence[Tensor | None]) -> None:
    """Looked-up axes stay whole where they must; the others keep their labels."""
    chosen = [d for d, i in enumerate(indices) if i is not None]
    where = indices[chosen[0]]
    if len(chosen) == 1 and where is not None and where.dim() == 1 and _known(tracer, where):
        tracer.put(out, _picked(tracer, x, chosen[0], [int(i) for i in where.tolist()]), tracer.mark(x).zero)
        return
    for d in chosen:
        tracer.freeze(tracer.axis(x, d), "looked up by position at")
    for i in indices:
        if i is not None:
            for _, ids in tracer.blocks(i):
                tracer.freeze(ids, "used as an index at")
    masks = any(i is not None and i.dtype is torch.bool for i in indices)
    rank = out.dim() - (x.dim() - len(chosen)) if not masks else None
    rest = tracer.blocks(x)
    if rank is None:
        for _, ids in rest:
            tracer.freeze(ids, "looked up by position at")
        tracer.put(out, ())
        return
    together = chosen == list(range(chosen[0], chosen[0] + len(chosen)))
    start = chosen[0] if together else 0
    left = [d for d in range(x.dim()) if d not in chosen]
    place = {d: (i if i < start else i + rank) for i, d in enumerate(left)}
    moved = [(tuple(place[d] for d in dims), ids) for dims, ids in rest if all(d in place for d in dims)]
    tracer.put(out, tuple(sorted(moved, key=lambda b: b[0])), tracer.mark(x).zero)


def _known(tracer: Tracer, where: Tensor) -> bool:
    """Whether these positions are numbers of the program's own, a few of them."""
    return where.dtype is torch.int64 and where.numel() <= 4096 and not tracer.mark(where).hollow


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
            _stay(tracer, ids, axis, positions)
        if len(positions) > 1:
            key = (id(ids), axis, *positions)
            if key not in tracer.rows:
                taken = np.ascontiguousarray(ids.take(positions, axis=axis))
                tracer.rows[key] = (ids, taken)
                tracer.fixed[id(taken)] = tracer.fixed.get(id(ids), (False,) * ids.ndim)
            blocks.append((dims, tracer.rows[key][1]))
        elif len(dims) > 1:  # an axis of one index is broadcast
            blocks.append((dims[:axis] + dims[axis + 1 :], _row(tracer, ids, axis, positions[0])))
    return tuple(sorted(blocks, key=lambda b: b[0]))


@rule("unfold", "unfold_copy")
def unfold(tracer: Tracer, out: Tensor, x: Tensor, dim: int, *_: Any) -> None:
    """Windows over one axis: they become a new one, at the end."""
    dim %= max(x.dim(), 1)
    tracer.freeze(tracer.axis(x, dim), "positions of")
    tracer.put(out, tuple(b for b in tracer.blocks(x) if dim not in b[0]), tracer.mark(x).zero)


@rule("index_select")
def index_select(tracer: Tracer, out: Tensor, x: Tensor, dim: int, _: Tensor) -> None:
    dim %= x.dim()
    tracer.freeze(tracer.axis(x, dim), "looked up by position at")
    tracer.put(out, tuple(b for b in tracer.blocks(x) if dim not in b[0]), tracer.mark(x).zero)


@rule("gather")
def gather(tracer: Tracer, out: Tensor, x: Tensor, dim: int, where: Tensor, **_: Any) -> None:
    dim %= x.dim()
    tracer.freeze(tracer.axis(x, dim), "looked up by position at")
    for d in range(x.dim()):
        a, b = tracer.axis(x, d), tracer.axis(where, d)
        if d != dim and (a is not None or b is not None):
            tracer.equal(a, b)
    tracer.put(out, tuple(b for b in tracer.blocks(x) if dim not in b[0]), tracer.mark(x).zero)


@rule("as_strided", "as_strided_")
def as_strided(tracer: Tracer, out: Tensor, x: Tensor, size: Sequence[int], *_: Any) -> None:
    """The same shape with other strides (channels_last pooling) changes nothing; anything else may mix indices."""
    if out is x:
        return
    if tuple(size) == tuple(x.shape):
        same(tracer, out, x)
        return
    for _, ids in tracer.blocks(x):
        tracer.freeze(ids, "memory is read by stride at")


@rule("copy")
def copied(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, *_: Any) -> None:
    mark = tracer.mark(source)
    tracer.put(out, tracer.blocks(source) if source.shape == out.shape else (), mark.zero)


@rule("copy_")
def write(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, *_: Any) -> None:
    """Written in place: what is already labelled meets the new values, what is not fixes them."""
    if tracer.blocks(x):
        tracer.put(out, join(tracer, out, [x, source]), tracer.mark(x).zero and tracer.mark(source).zero)
        return
    for _, ids in tracer.blocks(source):
        tracer.freeze(ids, "written into a tensor of fixed size at")


@rule("pixel_shuffle")
def pixel_shuffle(tracer: Tracer, out: Tensor, x: Tensor, factor: int) -> None:
    """r² channels become one."""
    channel = x.dim() - 3
    ids = tracer.axis(x, channel)
    blocks = [b for b in tracer.blocks(x) if max(b[0]) < channel]
    if ids is not None:
        square = ids.reshape(-1, factor * factor)
        tracer.labels.equal(square, np.broadcast_to(square[:, :1], square.shape))
        if len(square) > 1:
            blocks.append(((channel,), np.ascontiguousarray(square[:, 0])))
    tracer.put(out, tuple(blocks), tracer.mark(x).zero)


@rule("pixel_unshuffle")
def pixel_unshuffle(tracer: Tracer, out: Tensor, x: Tensor, factor: int) -> None:
    """One channel becomes r²."""
    channel = x.dim() - 3
    ids = tracer.axis(x, channel)
    blocks = [b for b in tracer.blocks(x) if max(b[0]) < channel]
    if ids is not None:
        blocks.append(((channel,), np.repeat(ids, factor * factor)))
    tracer.put(out, tuple(blocks), tracer.mark(x).zero)


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(tracer: Tracer, out: Tensor, x: Tensor, groups: int) -> None:
    """(g, c) becomes (c, g): the j-th channel of every group goes together."""
    ids = tracer.axis(x, 1)
    if ids is None:
        tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)
        return
    grid = ids.reshape(groups, -1)
    tracer.labels.equal(grid, np.broadcast_to(grid[:1], grid.shape))
    tracer.balanced(ids, groups)
    shuffled = np.ascontiguousarray(grid.T).ravel()
    rest = [b for b in tracer.blocks(x) if 1 not in b[0]]
    tracer.put(out, tuple(sorted([*rest, ((1,), shuffled)], key=lambda b: b[0])), tracer.mark(x).zero)
