"""Rules for operators that write, over all or at positions, or count: copy, scatter, index_put, searches, draws."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators.arithmetic import axes_of, join
from podar.graph.tracing.tracer import Tracer, rule


def _still(tracer: Tracer, tensor: Any, why: str) -> None:
    """Nothing of a tensor may go."""
    if isinstance(tensor, Tensor):
        for _, ids in tracer.blocks(tensor):
            tracer.freeze(ids, why)


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


@rule("index_add", "index_add_", "index_copy", "index_copy_", "index_reduce", "index_reduce_")
def along_one_axis(
    tracer: Tracer, out: Tensor, x: Tensor, dim: int, _: Tensor, source: Tensor, *__: Any, **___: Any
) -> None:
    """Slices of `source` go to positions along `dim`."""
    dim %= x.dim()
    _written(tracer, out, x, source, {dim}, {d: d for d in range(x.dim()) if d != dim})


@rule("index_fill", "index_fill_")
def index_fill(tracer: Tracer, out: Tensor, x: Tensor, dim: int, _: Tensor, value: Any) -> None:
    _written(tracer, out, x, None if isinstance(value, Tensor) else value, {dim % x.dim()}, {})


@rule("index_put", "index_put_", "_index_put_impl_", "_unsafe_index_put")
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
            _still(tracer, i, "used as an index at")
        at += width
    rest = [d for d in range(x.dim()) if d not in chosen]
    if chosen == list(range(len(chosen))):
        place = {d: values.dim() - len(rest) + k for k, d in enumerate(rest)}
        _written(tracer, out, x, values, set(chosen), place)
        return
    if not any(ids is not None for ids in (tracer.axis(x, d) for d in rest)):
        _still(tracer, values, "written by position at")
    else:
        for d in rest:
            tracer.freeze(tracer.axis(x, d), "written by position at")
        _still(tracer, values, "written by position at")
    tracer.put(out, tracer.blocks(x), False)


@rule("scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce", "scatter_reduce_")
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


@rule("masked_scatter", "masked_scatter_")
def masked_scatter(tracer: Tracer, out: Tensor, x: Tensor, mask: Tensor, source: Tensor) -> None:
    """Values take the places of a mask one after the other: nothing may shift."""
    for t in (x, mask, source):
        _still(tracer, t, "written by position at")
    tracer.put(out, ())


@rule("slice_scatter")
def slice_scatter(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, dim: int = 0, *_: Any) -> None:
    _written(tracer, out, x, source, {dim % x.dim()}, {d: d for d in range(x.dim()) if d != dim % x.dim()})


@rule("select_scatter")
def select_scatter(tracer: Tracer, out: Tensor, x: Tensor, source: Tensor, dim: int, _: int) -> None:
    dim %= x.dim()
    _written(tracer, out, x, source, {dim}, {d: d - (d > dim) for d in range(x.dim()) if d != dim})


@rule("histc", "bincount", "_unique2", "unique_dim", "unique_consecutive", "nonzero", "searchsorted", "bucketize",
      "isin", "masked_select", "multinomial", "_cdist_forward", "_euclidean_dist", "cross", "linalg_cross", "kthvalue",
      "mode", "median", "trace", "diag", "diag_embed", "diagonal", "linalg_inv_ex", "linalg_qr", "linalg_svd",
      "_linalg_svd", "_linalg_det", "linalg_solve_ex", "_linalg_solve_ex", "linalg_cholesky_ex", "take", "put_",
      "torchvision::nms", "_pdist_forward", "bilinear", "_trilinear", "affine_grid_generator",
      "repeat_interleave", "combinations", "cartesian_prod", "max_unpool2d", "histogram", "rot90")  # fmt: skip
def whole(tracer: Tracer, out: Any, *args: Any, **_: Any) -> None:
    """What comes out depends on every number that enters, and on where it stands."""
    for a in args:
        for t in a if isinstance(a, (list, tuple)) else (a,):
            _still(tracer, t, "looked through as a whole by")
    for o in out if isinstance(out, (list, tuple)) else (out,):
        if isinstance(o, Tensor):
            tracer.put(o, ())


@rule("normal_", "uniform_", "bernoulli_", "exponential_", "log_normal_", "cauchy_", "geometric_", "random_")
def drawn(tracer: Tracer, out: Tensor, x: Tensor, *_: Any, **__: Any) -> None:
    """Random numbers, one for every index there is."""
    tracer.put(out, tracer.blocks(x), False)


@rule("_grouped_mm")
def grouped_mm(
    tracer: Tracer, out: Tensor, a: Tensor, b: Tensor, offsets: Tensor | None = None, *_: Any, **__: Any
) -> None:
    """Rows of `a` (tokens, sorted by expert) times the matrix of their expert, (experts, inner, columns)."""
    if a.dim() != 2 or b.dim() != 3:
        for t in (a, b):
            _still(tracer, t, "groups of")
        tracer.put(out, ())
        return
    tracer.freeze(tracer.axis(a, 0), "sorted by expert at")
    tracer.freeze(tracer.axis(b, 0), "experts of")
    _still(tracer, offsets, "used as an index at")
    inner: Ids | None = tracer.axis(a, 1)
    tracer.equal(inner, tracer.axis(b, 1))
    za, zb = tracer.mark(a).zero, tracer.mark(b).zero
    if inner is not None and not za and not zb:
        tracer.freeze(inner, "a removed index would not be zero at")
    columns = tracer.axis(b, 2)
    tracer.put(out, axes_of({1: columns}), zero=zb)
    tracer.macs(a.shape[0] * a.shape[1] * b.shape[2], inner, columns)


@rule("cummax", "cummin", "logcumsumexp")
def running(tracer: Tracer, out: Any, x: Tensor, dim: int, *_: Any) -> None:
    """Every index looks at those before it."""
    tracer.freeze(tracer.axis(x, dim), "indices change places at")
    for o in out if isinstance(out, (list, tuple)) else (out,):
        tracer.put(o, tuple(b for b in tracer.blocks(x) if dim % x.dim() not in b[0]))


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(tracer: Tracer, out: Any, w: Tensor, index: Tensor, *_: Any, **__: Any) -> None:
    """Rows are looked up and added up; columns are channels."""
    tracer.freeze(tracer.axis(w, 0), "rows looked up by")
    _still(tracer, index, "positions of")
    y = out[0] if isinstance(out, (list, tuple)) else out
    tracer.put(y, axes_of({y.dim() - 1: tracer.axis(w, 1)}), tracer.mark(w).zero)


@rule("segment_reduce")
def segment_reduce(tracer: Tracer, out: Tensor, x: Tensor, how: str, *_: Any, axis: int = 0, **__: Any) -> None:
    """Rows are gathered segment by segment; channels pass. The largest of no rows is not zero."""
    tracer.freeze(tracer.axis(x, axis), "gathered by segment at")
    own = {d: tracer.axis(x, d) for d in range(x.dim()) if d != axis % x.dim()}
    tracer.put(out, axes_of(own), tracer.mark(x).zero and how == "sum")


@rule("torchvision::roi_align", "torchvision::roi_pool")
def regions(tracer: Tracer, out: Any, x: Tensor, boxes: Tensor, *_: Any) -> None:
    """Boxes are read from maps; channels pass."""
    for d in (0, 2, 3):
        tracer.freeze(tracer.axis(x, d), "positions of")
    _still(tracer, boxes, "positions of")
    y = out[0] if isinstance(out, (list, tuple)) else out
    tracer.put(y, axes_of({1: tracer.axis(x, 1)}), zero=tracer.mark(x).zero)


@rule("addbmm", "addr")
def rare_products(tracer: Tracer, out: Tensor, *args: Any, **_: Any) -> None:
    for t in args:
        _still(tracer, t, "summed over the batch by")
    tracer.put(out, ())


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
