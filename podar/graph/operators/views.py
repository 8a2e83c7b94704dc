"""Operators that give values another shape: views, permutations, expansions; and new tensors."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators.elementwise import join
from podar.graph.operators.marks import tensors_in
from podar.graph.operators.register import CARRIED, FIRST, OPERATORS, Compared, operator
from podar.graph.operators.tracer import Tracer
from podar.graph.record import Block, Blocks
from podar.graph.sizes import Axis, Expr

SIZED = {"view", "reshape", "expand", "repeat", "_unsafe_view", "broadcast_to", "tile"}
ALIKE = {"expand_as", "view_as", "reshape_as"}
"""Calls that give a tensor the shape of another one."""
SIZES_FIRST = {"full", "new_full", "empty_strided", "new_empty_strided", "empty_permuted", "randint", "normal"}
"""Their sizes are the first tuple or list among the arguments: there are other numbers, too."""


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
    other = args[1] if len(args) > 1 else kwargs.get("other")
    if name in ALIKE and isinstance(other, Tensor):
        return sizes_of(tracer, other)
    if name not in SIZED and not (name in OPERATORS and OPERATORS[name].creates):
        return nothing
    written = args[1:] if name in SIZED or name.startswith("new_") else args
    if name in SIZES_FIRST:
        written = [a for a in written if _is_list(a)][:1]
    shape = kwargs.get("shape", kwargs.get("size", written[0] if written and _is_list(written[0]) else written))
    if name == "tile" and isinstance(shape := kwargs.get("dims", shape), (tuple, list)):
        shape = (*[1] * (rank - len(shape)), *shape)
    if not isinstance(shape, (tuple, list)) or len(shape) != rank:
        return nothing
    # A size may be a number in a tensor, as that of a packed batch is.
    return _exprs(tracer, shape) if all(isinstance(v, (int, Tensor)) for v in shape) else nothing


def sizes_of(tracer: Tracer, tensor: Tensor) -> list[Expr | None]:
    """The sizes of a tensor, as what takes its shape follows them."""
    exprs: list[Expr | None] = list(tensor.shape)
    for dims, ids in tracer.blocks(tensor):
        for k, d in enumerate(dims):
            exprs[d] = Axis(ids, k)
    return exprs


def _expanded_sizes(tracer: Tracer, out: Tensor, x: Tensor) -> list[Expr | None]:
    """The sizes that decided a repetition; where torch worked them out itself, those of the tensor that it met."""
    rank, found = out.dim(), written_sizes(tracer, out.dim())
    if tracer.call is None or any(e is not None for e in found):
        return found
    func, args, kwargs = tracer.call
    if getattr(func, "__name__", "") == "repeat_interleave":
        repeats = args[1] if len(args) > 1 else kwargs.get("repeats")
        new = next((d for d in range(1, rank) if x.shape[d] == 1 != out.shape[d]), None)
        if new is not None and isinstance(repeats, int):
            found[new] = tracer.sizes.expr(repeats)
        return found
    own = (*[1] * (rank - x.dim()), *x.shape)
    for other in tensors_in((*args, *kwargs.values())):
        shift = rank - other.dim()
        for d, expr in enumerate(sizes_of(tracer, other) if shift >= 0 else (), shift):
            if isinstance(expr, Axis) and own[d] == 1 and other.shape[d - shift] == out.shape[d]:
                found[d] = expr
    return found


def _is_list(value: Any) -> bool:
    return isinstance(value, (tuple, list))


def _exprs(tracer: Tracer, sizes: Sequence[Any]) -> list[Expr | None]:
    return [None if isinstance(v, Tensor) or v == -1 else tracer.sizes.expr(v) for v in sizes]


@operator("view", zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_LAYOUT)
@operator("_unsafe_view", zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_LAYOUT, like="view")
@operator("_reshape_alias", zero=FIRST, scales=FIRST, statistic=CARRIED, like="view")
@operator("reshape view_copy", zero=FIRST, scales=FIRST, statistic=CARRIED)
def view(tracer: Tracer, out: Tensor, x: Tensor, *_: Any) -> None:
    """Axes merge and split; the sizes that Python wrote become constraints."""
    blocks = reshape(tracer, tuple(x.shape), x, tuple(out.shape))
    if blocks:
        exprs = written_sizes(tracer, out.dim())
        for dims, ids in blocks:
            chosen = [exprs[d] for d in dims]
            if len(dims) > 1:
                tracer.fix(ids, tuple(isinstance(e, int) for e in chosen))
            if len(dims) > 1 or chosen[0] is not None:
                tracer.sizes.grid(ids, chosen, tracer.where)
        _stay(tracer, out, exprs, {d for dims, _ in blocks for d in dims})
    tracer.put(out, blocks, tracer.mark(x).zero)


def _stay(tracer: Tracer, out: Tensor, exprs: Sequence[Expr | None], free: set[int]) -> None:
    """Dimensions of which no index can go have their size from something that must stay, too."""
    for d, expr in enumerate(exprs):
        if expr is not None and d not in free:
            tracer.sizes.number(expr, out.shape[d], tracer.where)


def reshape(tracer: Tracer, before: tuple[int, ...], x: Tensor, after: tuple[int, ...]) -> Blocks:
    """Labels of `x` under another shape with the same elements in the same order."""
    if not tracer.blocks(x):
        return ()
    if math.prod(before):
        return _regrouped(tracer, before, x, after)
    # No rows (nothing was found): the other axes move as they would with rows.
    kept: list[Block] = []
    before, with_rows = _with_rows(before, after)
    for dims, ids in _regrouped(tracer, before, x, with_rows):
        if all(after[d] for d in dims):
            kept.append((dims, ids))
        else:
            tracer.freeze(ids, "joined with rows, of which there were none, at")
    return tuple(kept)


def _with_rows(before: Sequence[int], after: Sequence[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes with as many rows in place of none as make them agree.

    **Raises:** `ValueError`: no number of rows does.
    """
    a, b = (math.prod(n for n in shape if n) for shape in (before, after))
    if a % b and b % a:
        raise ValueError(f"{tuple(before)} cannot become {tuple(after)} with any number of rows")
    shapes: list[tuple[int, ...]] = []
    for shape, rows in ((before, max(b // a, 1)), (after, max(a // b, 1))):
        first = shape.index(0)
        shapes.append(tuple(rows if d == first else n or 1 for d, n in enumerate(shape)))
    return shapes[0], shapes[1]


def _regrouped(tracer: Tracer, before: tuple[int, ...], x: Tensor, after: tuple[int, ...]) -> Blocks:
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


@operator("permute permute_copy", zero=FIRST, scales=FIRST, statistic=CARRIED)
def permute(tracer: Tracer, out: Tensor, x: Tensor, dims: Sequence[int]) -> None:
    """Axes change places, with their labels."""
    place = {d % x.dim(): i for i, d in enumerate(dims)}
    tracer.put(out, _moved(tracer, x, place), tracer.mark(x).zero)


@operator("t", in_place=True, zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_LAYOUT)
@operator("numpy_T", zero=FIRST, scales=FIRST, statistic=CARRIED)
def t(tracer: Tracer, out: Tensor, x: Tensor) -> None:
    """The last axis comes first; a vector stays as it is."""
    tracer.put(out, _moved(tracer, x, {0: x.dim() - 1, x.dim() - 1: 0}), tracer.mark(x).zero)


@operator("transpose", in_place=True, zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_LAYOUT)
@operator("swapaxes transpose_copy", zero=FIRST, scales=FIRST, statistic=CARRIED)
def transpose(tracer: Tracer, out: Tensor, x: Tensor, a: int, b: int) -> None:
    """Two axes change places."""
    a, b = a % x.dim(), b % x.dim()
    tracer.put(out, _moved(tracer, x, {**{d: d for d in range(x.dim())}, a: b, b: a}), tracer.mark(x).zero)


def _moved(tracer: Tracer, x: Tensor, place: dict[int, int]) -> Blocks:
    moved = [(tuple(place[d] for d in dims), ids) for dims, ids in tracer.blocks(x)]
    return tuple(sorted(moved, key=lambda b: b[0]))


@operator("unsqueeze", in_place=True, zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_LAYOUT)
def unsqueeze(tracer: Tracer, out: Tensor, x: Tensor, dim: int) -> None:
    """A new axis of size 1 has no labels."""
    dim %= out.dim()
    moved = tuple((tuple(d + (d >= dim) for d in dims), ids) for dims, ids in tracer.blocks(x))
    tracer.put(out, moved, tracer.mark(x).zero)


@operator("squeeze", in_place=True, zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_LAYOUT)
@operator("squeeze_copy", zero=FIRST, scales=FIRST, statistic=CARRIED)
def squeeze(tracer: Tracer, out: Tensor, x: Tensor, *dims: Any) -> None:
    """Axes of size 1 had no labels."""
    chosen = range(x.dim()) if not dims else [dims[0]] if isinstance(dims[0], int) else dims[0]
    gone = {d % x.dim() for d in chosen if x.shape[d] == 1}
    place = {d: i for i, d in enumerate(d for d in range(x.dim()) if d not in gone)}
    tracer.put(out, _moved(tracer, x, place), tracer.mark(x).zero)


@operator("alias contiguous lift_fresh", zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_COPIES)
@operator("detach", in_place=True, zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_COPIES)
def same(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    """The same values under another name."""
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)


@operator("expand", creates=True, zero=FIRST, scales=FIRST, statistic=CARRIED, compared=Compared.WITHOUT_LAYOUT)
@operator("expand_copy", creates=True, zero=FIRST, scales=FIRST, statistic=CARRIED)
def expand(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    """A repeated axis whose size an attribute decides gets atoms: query heads that share one key may go."""
    shift = out.dim() - x.dim()
    blocks = tuple((tuple(d + shift for d in dims), ids) for dims, ids in tracer.blocks(x))
    tracer.put(out, blocks, tracer.mark(x).zero)
    for d, expr in enumerate(_expanded_sizes(tracer, out, x)):
        owner = next(((dims, ids) for dims, ids in blocks if d in dims), None)
        if expr is None:
            continue
        if owner is not None:
            if len(owner[0]) == 1:
                tracer.sizes.grid(owner[1], (expr,), tracer.where)
        elif out.shape[d] > 1 and (d < shift or x.shape[d - shift] == 1):
            tracer.put(out, (*tracer.blocks(out), *_new_axis(tracer, out.shape[d], d, expr)), tracer.mark(x).zero)
        else:
            tracer.sizes.number(expr, out.shape[d], tracer.where)
    tracer.mark(out).blocks = tuple(sorted(tracer.blocks(out), key=lambda b: b[0]))


def _new_axis(tracer: Tracer, size: int, dim: int, expr: Expr | None) -> list[Block]:
    """Atoms for an axis that the model sized by itself, where something it remembers decided the size."""
    if expr is None or isinstance(expr, int) or size <= 1:
        return []
    ids = tracer.labels.fresh(size)
    tracer.sizes.grid(ids, (expr,), tracer.where)
    return [((dim,), ids)]


@operator("repeat", creates=True, zero=FIRST, scales=FIRST, statistic=CARRIED)
def repeat(tracer: Tracer, out: Tensor, x: Tensor, repeats: Sequence[int]) -> None:
    """Labels repeat with their indices; times that something remembered decides are an axis of their own, outside."""
    shift = out.dim() - x.dim()
    blocks: list[Block] = []
    for d, expr in enumerate(written_sizes(tracer, out.dim())):
        ids = tracer.axis(x, d - shift) if d >= shift else None
        within = x.shape[d - shift] if d >= shift else 1
        times = _new_axis(tracer, repeats[d], d, expr)
        if not times:
            blocks += [] if ids is None else [((d,), np.tile(ids, repeats[d]))]
            if expr is not None:
                tracer.sizes.number(expr, repeats[d], tracer.where)
        else:
            inner = np.zeros(within, dtype=np.int64) if ids is None else ids
            blocks.append(((d,), np.ascontiguousarray(tracer.labels.outer(times[0][1], inner).ravel())))
    tracer.put(out, tuple(blocks), tracer.mark(x).zero)


@operator("zeros ones full new_zeros new_ones new_full rand randn randint normal", creates=True)
@operator("empty new_empty empty_strided new_empty_strided empty_permuted", creates=True, unfilled=True)
def created(tracer: Tracer, out: Tensor, *given: Any, **_: Any) -> None:
    """A new tensor follows the sizes it was made with (`normal` those of its means or spreads)."""
    if tracer.operator.name == "normal" and any(isinstance(g, Tensor) for g in given):
        tracer.put(out, join(tracer, out, [g for g in given if isinstance(g, Tensor)]))
        return
    exprs = written_sizes(tracer, out.dim())
    blocks = [b for d, e in enumerate(exprs) for b in _new_axis(tracer, out.shape[d], d, e)]
    tracer.put(out, tuple(blocks), zero=tracer.operator.name.endswith("zeros"))


LIKE = frozenset(("zeros_like", "ones_like", "full_like", "rand_like", "randn_like", "randint_like", "empty_like"))


@operator(" ".join(sorted(LIKE - {"empty_like"})))
@operator("empty_like", unfilled=True)
def like(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    """Other values in the shape of a tensor, which they follow."""
    tracer.put(out, tracer.blocks(x), zero=tracer.operator.name == "zeros_like")
