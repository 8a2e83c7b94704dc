"""Operators that write, over all or at positions, or look at everything: copy, scatter, searches, random draws."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from podar.graph.operators import shapes
from podar.graph.operators.elementwise import join
from podar.graph.operators.products import axes_of
from podar.graph.operators.register import operator
from podar.graph.operators.tracer import Tracer


def _written(tracer: Tracer, out: Tensor, x: Tensor, values: Any, touched: set[int], place: dict[int, int]) -> None:
    """`values` are written into `x` along the axes `touched`; `place`: for other axes of x the axis of values."""
    for d in touched:
        tracer.freeze(tracer.axis(x, d), "written by position at")
    own = {d: tracer.axis(x, d) for d in range(x.dim()) if d not in touched}
    zero = tracer.mark(x).zero
    if isinstance(values, Tensor):
        met: set[int] = set()
        for d, k in place.items():
            if 0 <= k < values.dim():
                met.add(k)
                theirs = tracer.axis(values, k)
                if values.shape[k] > 1:
                    tracer.equal(own[d], theirs)
        for k in set(range(values.dim())) - met:
            tracer.freeze(tracer.axis(values, k), "written by position at")
        zero = zero and (tracer.mark(values).zero or not tracer.blocks(values))
    else:
        zero = zero and values == 0
    tracer.put(out, axes_of(own), zero)


@operator("index_add index_copy index_reduce", in_place=True)
def along_one_axis(
    tracer: Tracer, out: Tensor, x: Tensor, dim: int, _: Tensor, source: Tensor, *__: Any, **___: Any
) -> None:
    """Slices of `source` go to positions along `dim`."""
    dim %= x.dim()
    _written(tracer, out, x, source, {dim}, {d: d for d in range(x.dim()) if d != dim})


@operator("index_fill", in_place=True)
def index_fill(tracer: Tracer, out: Tensor, x: Tensor, dim: int, _: Tensor, value: Any) -> None:
    """One number is written at positions along `dim`."""
    _written(tracer, out, x, None if isinstance(value, Tensor) else value, {dim % x.dim()}, {})


@operator("index_put", in_place=True, masks=1)
@operator("_index_put_impl_ _unsafe_index_put", masks=1)
def index_put(
    tracer: Tracer, out: Tensor, x: Tensor, indices: Sequence[Tensor | None], values: Tensor, *_: Any, **__: Any
) -> None:
    """`x[i, :, j] = values`: indexed axes stay, the others meet those of the values."""
    chosen: list[int] = []
    at = 0
    for i in indices:
        width = i.dim() if i is not None and i.dtype.is_floating_point is False and str(i.dtype) == "torch.bool" else 1
        if i is not None:
            chosen += range(at, at + width)
            tracer.freeze_all(i, "used as an index at")
        at += width
    rest = [d for d in range(x.dim()) if d not in chosen]
    if chosen == list(range(len(chosen))):
        place = {d: values.dim() - len(rest) + k for k, d in enumerate(rest)}
        _written(tracer, out, x, values, set(chosen), place)
        return
    if not any(ids is not None for ids in (tracer.axis(x, d) for d in rest)):
        tracer.freeze_all(values, "written by position at")
    else:
        for d in rest:
            tracer.freeze(tracer.axis(x, d), "written by position at")
        tracer.freeze_all(values, "written by position at")
    tracer.put(out, tracer.blocks(x), False)


@operator("scatter scatter_add scatter_reduce", in_place=True)
def scatter(
    tracer: Tracer, out: Tensor, x: Tensor, dim: int, where: Tensor, source: Any = 0, *_: Any, **__: Any
) -> None:
    """Written element by element along `dim`; along the others index, values and target are side by side."""
    dim %= max(x.dim(), 1)
    same = where.shape == x.shape or all(where.shape[d] == x.shape[d] for d in range(x.dim()) if d != dim)
    others = {d: d for d in range(x.dim()) if d != dim}
    for d in range(where.dim()):
        mine = tracer.axis(x, d) if d != dim and same else None
        if d == dim or not same:
            tracer.freeze(tracer.axis(where, d), "used as an index at")
            tracer.freeze(tracer.axis(x, d), "written by position at")
        elif where.shape[d] > 1:
            tracer.equal(mine, tracer.axis(where, d))
    _written(tracer, out, x, source, {dim} if same else set(range(x.dim())), others if same else {})


@operator("masked_scatter", in_place=True, masks=1)
def masked_scatter(tracer: Tracer, out: Tensor, x: Tensor, mask: Tensor, source: Tensor) -> None:
    """Values take the places of a mask one after the other: nothing may shift."""
    for t in (x, mask, source):
        tracer.freeze_all(t, "written by position at")
    tracer.put(out, ())


@operator("slice_scatter")
def slice_scatter(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, dim: int = 0, *_: Any) -> None:
    """A part of one axis is written anew; the other axes meet."""
    _written(tracer, out, x, source, {dim % x.dim()}, {d: d for d in range(x.dim()) if d != dim % x.dim()})


@operator("select_scatter")
def select_scatter(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, dim: int, _: int) -> None:
    """One index of an axis is written anew; the other axes meet."""
    dim %= x.dim()
    _written(tracer, out, x, source, {dim}, {d: d - (d > dim) for d in range(x.dim()) if d != dim})


@operator(
    "_local_scalar_dense item equal is_nonzero nonzero masked_select _unique _unique2 unique_dim unique_consecutive",
    "bincount repeat_interleave one_hot torchvision::nms torchvision::qnms",
    reads=True,
)
@operator(
    "_cdist_forward _euclidean_dist _linalg_det _linalg_solve_ex _linalg_svd _pdist_forward _trilinear",
    "affine_grid_generator bilinear bucketize cartesian_prod combinations cross diag diag_embed diagonal histc",
    "histogram isin kthvalue linalg_cholesky_ex linalg_cross linalg_inv_ex linalg_qr linalg_solve_ex linalg_svd",
    "max_unpool2d median mode multinomial put_ rot90 searchsorted take trace",
)
def whole(tracer: Tracer, out: Any, *args: Any, **_: Any) -> None:
    """What comes out depends on every number that enters, and on where it stands."""
    for a in args:
        for t in a if isinstance(a, (list, tuple)) else (a,):
            tracer.freeze_all(t, "looked through as a whole by")
    for o in out if isinstance(out, (list, tuple)) else (out,):
        if isinstance(o, Tensor):
            tracer.put(o, ())


@operator("normal_ uniform_ exponential_ log_normal_ cauchy_ geometric_ random_")
def drawn(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    """Random numbers, one for every index there is."""
    tracer.put(out, tracer.blocks(x), False)


@operator("copy")
def copied(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, *_: Any) -> None:
    """The values of `source` in the shape of `x`."""
    mark = tracer.mark(source)
    tracer.put(out, tracer.blocks(source) if source.shape == out.shape else (), mark.zero)


@operator("copy_", shape=shapes.in_place)
def write(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, *_: Any) -> None:
    """Written in place: what is already labelled meets the new values, what is not fixes them."""
    if tracer.blocks(x):
        tracer.put(out, join(tracer, out, [x, source]), tracer.mark(x).zero and tracer.mark(source).zero)
        return
    for _, ids in tracer.blocks(source):
        tracer.freeze(ids, "written into a tensor of fixed size at")
