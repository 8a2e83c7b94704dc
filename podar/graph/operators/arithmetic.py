"""One short rule per ATen operator that computes: how labels pass through it, and what it costs."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators import statistics
from podar.graph.tracing.tracer import Block, Blocks, Tracer, rule

ZERO_STAYS_ZERO = """abs alias_copy asin atan ceil celu clone copy detach dropout elu erf expm1 floor
feature_dropout gelu hardswish hardtanh
leaky_relu log1p mish neg native_dropout relu relu6 round selu sign silu sin sqrt square tan tanh _to_copy
lift_fresh positive contiguous asinh atanh sinh sgn frac trunc fix nan_to_num softshrink hardshrink deg2rad rad2deg
special_i1 lift
""".split()
ZERO_MOVES = """acos cos erfc exp hardsigmoid log log2 log10 log_sigmoid log_sigmoid_forward logit reciprocal rsqrt
sigmoid softplus bitwise_not logical_not isnan isinf isfinite threshold bernoulli cosh acosh exp2 erfinv lgamma
digamma sinc signbit special_i0 special_entr special_ndtr special_erfcx rrelu_with_noise
alpha_dropout feature_alpha_dropout
""".split()
SUMS = "add sub rsub where maximum minimum fmax fmin lerp addcmul addcdiv fmod remainder".split()
PRODUCTS = "mul div floor_divide bitwise_and logical_and true_divide".split()
COMPARISONS = """eq ne lt le gt ge atan2 bitwise_or logical_or logical_xor bitwise_xor masked_fill hypot logaddexp
xlogy copysign heaviside gcd __and__ __or__ __lshift__ __rshift__ bitwise_left_shift bitwise_right_shift logaddexp2
float_power
""".split()


def _both(names: Sequence[str]) -> list[str]:
    return [*names, *(f"{n}_" for n in names)]


@rule(*_both(ZERO_STAYS_ZERO))
def unary(tracer: Tracer, out: Any, x: Tensor, *_: Any, **__: Any) -> None:
    """f(0) = 0: a removed channel stays zero."""
    out = out[0] if isinstance(out, tuple) else out
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)


@rule(*_both(ZERO_MOVES))
def moving(tracer: Tracer, out: Any, x: Tensor, *_: Any, **__: Any) -> None:
    """f(0) ≠ 0: a removed channel would become a constant."""
    out = out[0] if isinstance(out, tuple) else out
    tracer.put(out, tracer.blocks(x))


@rule(*_both(["clamp", "clamp_min", "clamp_max"]))
def clamp(tracer: Tracer, out: Tensor, x: Tensor, low: Any = None, high: Any = None) -> None:
    """Keeps zero where zero lies within the bounds."""
    numbers = not isinstance(low, Tensor) and not isinstance(high, Tensor)
    inside = numbers and (low is None or low <= 0) and (high is None or high >= 0)
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero and bool(inside))


@rule("_prelu_kernel", "prelu")
def prelu(tracer: Tracer, out: Tensor, x: Tensor, slope: Tensor) -> None:
    """Slopes go with their channels; zero stays zero whatever the slope."""
    tracer.put(out, join(tracer, out, [x, slope]) if slope.numel() > 1 else tracer.blocks(x), tracer.mark(x).zero)


@rule(*_both(["pow"]))
def power(tracer: Tracer, out: Tensor, x: Any, exponent: Any) -> None:
    """Keeps zero where the exponent is above it."""
    if not isinstance(x, Tensor) or isinstance(exponent, Tensor):
        elementwise(tracer, out, x, exponent)
        return
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero and exponent > 0)


@rule(*_both(SUMS), *_both(PRODUCTS), *_both(COMPARISONS))
def elementwise(tracer: Tracer, out: Tensor, *args: Any, **_: Any) -> None:
    """Tensors that meet index by index go together; broadcast axes of size 1 have no labels to meet."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    blocks = join(tracer, out, tensors)
    covering = {d for dims, _ in blocks for d in dims}
    zeros = []
    for t in tensors:
        shift = out.dim() - t.dim()
        own = {d + shift for dims, _ in tracer.blocks(t) for d in dims}
        zeros.append(tracer.mark(t).zero and covering <= own)
    name = tracer.operator.rstrip("_")
    scalars = any(isinstance(a, (int, float)) and a != 0 for a in args[1:]) and name != "masked_fill"
    if name in PRODUCTS:
        zero = any(zeros) if name == "mul" else zeros[0] and isinstance(args[0], Tensor)
    elif name in ("add", "sub", "rsub", "where", "maximum", "minimum"):
        zero = all(zeros[1:] if name == "where" else zeros) and (len(tensors) > 1 and not scalars)
        zero = zero and (name != "where" or len(tensors) == 3)
    elif name == "masked_fill":
        zero = zeros[0] and not isinstance(args[2], Tensor) and args[2] == 0
    else:
        zero = False
    tracer.put(out, blocks, bool(zero))


def join(tracer: Tracer, out: Tensor, tensors: Sequence[Tensor]) -> Blocks:
    """The blocks of tensors that are broadcast together into the shape of `out`."""
    rank = out.dim()
    found: list[Block] = []
    for t in tensors:
        mine = tracer.blocks(t)
        if not mine:
            continue
        shift = rank - t.dim()
        shifted = tuple((tuple(d + shift for d in dims), ids) for dims, ids in mine) if shift else mine
        if not found:
            found = list(shifted)
            continue
        if len(found) == len(shifted) and all(a[0] == b[0] for a, b in zip(found, shifted)):
            for a, b in zip(found, shifted):
                tracer.equal(a[1], b[1])
            continue
        found = _meet(tracer, found, t, shift)
    if not found:
        return ()
    for t in tensors:
        shift = rank - t.dim()
        own = {d + shift for dims, _ in tracer.blocks(t) for d in dims}
        for block in list(found):
            fixed = [
                d
                for d in block[0]
                if d not in own
                and d >= shift
                and 1 not in (t.shape[d - shift], out.shape[d])
                and not tracer.uniform(t, d - shift)
            ]
            if not fixed:
                continue
            found.remove(block)
            for (d,), ids in (factors := tracer.factors(block)):
                if d in fixed:
                    tracer.freeze(ids, "meets values that cannot change at")
            found += factors
    return tuple(sorted(found, key=lambda b: b[0]))


def _meet(tracer: Tracer, found: list[Block], t: Tensor, shift: int) -> list[Block]:
    """Join blocks that do not lie over the same dimensions: joint blocks that clash are factored first."""
    for dims, _ in list(tracer.blocks(t)):
        shifted = tuple(d + shift for d in dims)
        clash = [b for b in found if set(b[0]) & set(shifted) and b[0] != shifted]
        if clash and len(dims) > 1:
            tracer.split(t, dims)
    for dims, ids in tracer.blocks(t):
        shifted = tuple(d + shift for d in dims)
        clash = [b for b in found if set(b[0]) & set(shifted) and b[0] != shifted]
        for block in clash:
            found.remove(block)
            found += tracer.factors(block)
        same = next((b for b in found if b[0] == shifted), None)
        if same is not None:
            tracer.equal(same[1], ids)
        else:
            found.append((shifted, ids))
    return found


@rule("convolution")
def convolution(
    tracer: Tracer,
    out: Tensor,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    extra: Any,
    groups: int,
) -> None:
    """Output channels are the filters; input channels meet the weight's second axis, group by group."""
    rank = w.dim() - 2
    channel = x.dim() - rank - 1
    name = tracer.named.get(id(w))
    cin = tracer.axis(x, channel)
    inner, outer = (0, 1) if transposed else (1, 0)  # which weight axis lists inputs, which outputs
    per_in, per_out = x.shape[channel] // groups, out.shape[channel] // groups
    mark = tracer.mark(w)
    fresh = mark.fresh
    grouped = groups > 1 and per_in > 1 and not transposed
    if fresh and name is not None:
        # Kernel positions are no candidates: only rows and columns get atoms.
        layout = tracer.record.layouts.setdefault(name, {})
        if grouped and cin is not None:
            layout[1] = cin.reshape(groups, per_in)
        elif groups == 1 and cin is not None:
            layout.setdefault(inner, cin)
        elif per_in == per_out == 1 and cin is not None:
            layout.setdefault(0, cin)
        rows = [(d, n) for d, n in enumerate(w.shape[: 1 if grouped and cin is not None else 2]) if n > 1]
        tracer.put(w, tuple([((d,), tracer.layout(name, d, n)) for d, n in rows]), zero=True)
        mark.hollow = True
    if groups == 1:
        tracer.equal(cin, tracer.axis(w, inner))
        cout = tracer.axis(w, outer)
    elif per_in == 1 or transposed:
        # Depthwise: output o belongs to input o // multiplier. (A grouped transposed weight lists inputs first.)
        cout = _grouped_outputs(tracer, w, groups, transposed)
        if per_in == 1 and per_out >= 1 and cin is not None and cout is not None:
            tracer.labels.equal(cin if per_out == 1 else np.repeat(cin, per_out), cout)
        else:
            _whole_groups(tracer, cin, cout, groups)
        if per_in == 1:
            _count(tracer, cin if cin is not None else cout, groups)
    else:
        if not fresh or cin is None:
            _shared_inputs(tracer, w, cin, groups, name)
        cout = tracer.axis(w, 0)
        for ids in (cin, cout):
            if ids is not None:
                tracer.balanced(ids, groups)
    if bias is not None:
        tracer.meet(cout, bias, 0)
    tracer.freeze_from(w, 2, "kernel positions of")
    tracer.freeze_from(x, channel + 1, "positions of")
    blocks = tuple(b for b in tracer.blocks(x) if max(b[0]) < channel)
    if cout is not None and len(cout) > 1:
        blocks += (((channel,), cout),)
    tracer.put(out, blocks, zero=True)
    kernel = math.prod(w.shape[2:])
    places = math.prod(x.shape[channel + 1 :]) if transposed else math.prod(out.shape[channel + 1 :])
    batch = math.prod(x.shape[:channel])
    count = batch * places * kernel * per_in * out.shape[channel]
    tracer.macs(count, cout, cin if per_in > 1 else None)


def _grouped_outputs(tracer: Tracer, w: Tensor, groups: int, transposed: bool) -> Ids | None:
    if not transposed:
        tracer.freeze(tracer.axis(w, 1), "the inputs of one group at")
        return tracer.axis(w, 0)
    rows = tracer.axis(w, 0)
    tracer.freeze(rows, "grouped transposed") if w.shape[1] > 1 or w.shape[0] != groups else None
    tracer.freeze(tracer.axis(w, 1), "grouped transposed")
    return rows if w.shape[1] == 1 else None


def _whole_groups(tracer: Tracer, cin: Ids | None, cout: Ids | None, groups: int) -> None:
    for ids in (cin, cout):
        tracer.freeze(ids, f"{groups} groups of")


def _shared_inputs(tracer: Tracer, w: Tensor, cin: Ids | None, groups: int, name: str | None) -> None:
    """A weight that is computed or used twice: every group loses the same input positions."""
    layout = tracer.record.layouts.get(name, {}).get(1) if name else None
    if layout is not None and layout.ndim == 2 and cin is not None:
        tracer.labels.equal(layout, cin.reshape(layout.shape))
        return
    inner = tracer.axis(w, 1)
    if cin is None or inner is None:
        tracer.equal(cin, inner if inner is None else np.tile(inner, groups))
        return
    tracer.labels.equal(cin, np.tile(inner, groups))


def _count(tracer: Tracer, ids: Ids | None, groups: int) -> None:
    """A depthwise convolution's `groups` is its number of channels: the attribute behind it follows."""
    if ids is None:
        return
    written: Any = groups
    if tracer.call is not None:
        _, args, kwargs = tracer.call
        written = kwargs.get("groups", args[6] if len(args) > 6 else groups)
    tracer.sizes.grid(ids, (tracer.sizes.expr(written),), tracer.where)


@rule("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit",
      "cudnn_batch_norm")  # fmt: skip
def batch_norm(tracer: Tracer, out: Any, x: Tensor, weight: Any, bias: Any, *args: Any, **_: Any) -> None:
    """Everything a channel has goes with it."""
    vectors = [a for a in (weight, bias, *args[:2]) if isinstance(a, Tensor)]
    ids = tracer.axis(x, 1)
    for vector in vectors:
        tracer.meet(ids, vector, 0)
    training = any(a is True for a in args[:3])
    if training:
        for dims, other in tracer.blocks(x):
            if dims != (1,):
                tracer.freeze(other, "a statistic over this axis at")
    y = out[0] if isinstance(out, tuple) else out
    tracer.put(y, tracer.blocks(x), zero=weight is not None and bias is not None)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm")
def layer_norm(tracer: Tracer, out: Any, x: Tensor, shape: Sequence[int], *affine: Any) -> None:
    """Statistics run over what remains; scale and shift go with their index."""
    y = out[0] if isinstance(out, tuple) else out
    first = x.dim() - len(shape)
    vectors = [a for a in affine if isinstance(a, Tensor)]
    for d in range(first, x.dim()):
        ids = tracer.axis(x, d)
        for vector in vectors:
            tracer.meet(ids, vector, d - first)
        if ids is not None:
            written = shape if tracer.inside else _written_shape(tracer, len(shape))
            expr = None if written is None else tracer.sizes.expr(written[d - first])
            tracer.sizes.grid(ids, (expr,), tracer.where)
    tracer.put(y, tracer.blocks(x), zero=bool(vectors))


def _written_shape(tracer: Tracer, rank: int) -> Sequence[int] | None:
    if tracer.call is None:
        return None
    _, args, kwargs = tracer.call
    written = kwargs.get("normalized_shape", args[1] if len(args) > 1 else None)
    return written if isinstance(written, (tuple, list)) and len(written) == rank else None


@rule("native_group_norm")
def group_norm(
    tracer: Tracer, out: Any, x: Tensor, w: Any, b: Any, n: int, c: int, hw: int, groups: int, eps: float
) -> None:
    """Each group keeps equally many channels."""
    ids = tracer.axis(x, 1)
    for vector in (w, b):
        if vector is not None:
            tracer.meet(ids, vector, 0)
    if ids is not None:
        tracer.balanced(ids, groups)
    tracer.put(out[0], tracer.blocks(x), zero=w is not None and b is not None)


@rule("mm", "_sparse_mm")
def mm(tracer: Tracer, out: Tensor, a: Tensor, b: Tensor, *_: Any) -> None:
    """The contracted axes meet; rows come from a, columns from b."""
    contract(tracer, a, 1, b, 0)
    rows, inner, columns = tracer.axis(a, 0), tracer.axis(a, 1), tracer.axis(b, 1)
    zero = (rows is None or tracer.mark(a).zero) and (columns is None or tracer.mark(b).zero)
    tracer.put(out, axes_of({0: rows, 1: columns}), zero)
    entries = a.shape[0] * a.shape[1] if a.layout is torch.strided else a._nnz()
    tracer.macs(entries * b.shape[1], rows, inner, columns)


@rule("addmm", "_sparse_addmm")
def addmm(tracer: Tracer, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> None:
    """A linear layer."""
    mm(tracer, out, a, b)
    product = tracer.blocks(out)
    d = 1 - (out.dim() - bias.dim())
    tracer.equal(tracer.axis(out, 1), tracer.axis(bias, d))
    tracer.put(out, product, zero=tracer.mark(out).zero)


@rule("addmv", "mv", "dot", "vdot", "inner")
def vectors(tracer: Tracer, out: Tensor, *args: Any, **_: Any) -> None:
    """Rare: freeze rather than reason."""
    for t in args:
        if isinstance(t, Tensor):
            for _dims, ids in tracer.blocks(t):
                tracer.freeze(ids, "multiplied with a vector at")


@rule("bmm")
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


@rule("baddbmm")
def baddbmm(tracer: Tracer, out: Tensor, bias: Tensor, a: Tensor, b: Tensor, **_: Any) -> None:
    bmm(tracer, out, a, b)
    mark = tracer.mark(out)
    tracer.put(out, join(tracer, out, [out, bias]), zero=mark.zero and not tracer.labelled(bias))


def contract(tracer: Tracer, a: Tensor, da: int, b: Tensor, db: int) -> None:
    """Unify a contracted axis. Where no parameter's slice goes with it, an index must be zero in one factor to go."""
    ia, ib = tracer.axis(a, da), tracer.axis(b, db)
    tracer.equal(ia, ib)
    if ia is not None and not tracer.mark(a).zero and not tracer.mark(b).zero:
        tracer.freeze(ia, "a removed index would not be zero at")


def axes_of(axes: dict[int, Ids | None]) -> Blocks:
    return tuple(((d,), ids) for d, ids in sorted(axes.items()) if ids is not None)


@rule("_softmax", "_log_softmax", "_safe_softmax")
def softmax(tracer: Tracer, out: Tensor, x: Tensor, dim: int, *_: Any) -> None:
    tracer.freeze(tracer.axis(x, dim), "normalised over this axis by")
    tracer.put(out, tracer.blocks(x))


@rule("glu")
def glu(tracer: Tracer, out: Tensor, x: Tensor, dim: int = -1) -> None:
    """The two halves go together."""
    dim %= x.dim()
    ids = tracer.axis(x, dim)
    half = x.shape[dim] // 2
    blocks = tuple(b for b in tracer.blocks(x) if dim not in b[0])
    if ids is not None:
        tracer.labels.equal(ids[:half], ids[half:])
        blocks = tuple(sorted((*blocks, ((dim,), ids[:half]))))
    tracer.put(out, blocks, tracer.mark(x).zero)


@rule("mean", "sum", "amax", "amin", "var", "var_mean", "std", "linalg_vector_norm", "max", "min", "argmax", "argmin",
      "any", "all", "prod", "logsumexp", "norm", "median", "nanmean", "std_mean", "count_nonzero")  # fmt: skip
def reduction(tracer: Tracer, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Axes that stay keep their labels. A sum over zeros may lose them; of norms a statistic is over what remains."""
    outs = [o for o in (out if isinstance(out, tuple) else (out,)) if isinstance(o, Tensor)]
    name = tracer.operator
    place = 1 if name in ("linalg_vector_norm", "norm") else 0
    dims = kwargs.get("dim", args[place] if len(args) > place else None)
    if isinstance(dims, bool) or dims is None or (isinstance(dims, (list, tuple)) and not dims):
        dims = range(x.dim())
    gone = {d % x.dim() for d in ([dims] if isinstance(dims, int) else dims)} if x.dim() else set()
    mark = tracer.mark(x)
    for own, _ in tracer.blocks(x):
        if len(own) > 1 and gone & set(own) and not gone.issuperset(own):
            tracer.split(x, own)
    for own, ids in tracer.blocks(x):
        if not gone.issuperset(own) or (mark.zero and name in ("sum", "linalg_vector_norm", "norm")):
            continue
        if name not in statistics.NORMS or tracer.is_computed_weight(mark):
            tracer.freeze(ids, "a statistic over this axis at")
            continue
        beside = math.prod(x.shape[d] for d in gone.difference(own))
        statistics.take(tracer, outs, ids, _correction(name, args, kwargs), beside)
    for o in outs:
        if o.dim() == x.dim():
            kept = tuple(b for b in tracer.blocks(x) if not gone & set(b[0]))
        else:
            place_of = {d: i for i, d in enumerate(d for d in range(x.dim()) if d not in gone)}
            kept = tuple(
                (tuple(place_of[d] for d in dims), ids) for dims, ids in tracer.blocks(x) if not gone & set(dims)
            )
        tracer.put(o, kept, mark.zero and tracer.operator in ("mean", "sum", "amax", "max"))
        if name == "sum":
            tracer.mark(o).summed = tuple(ids for own, ids in tracer.blocks(x) if gone.issuperset(own))


def _correction(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> float:
    """What a variance takes off the number of its values before it divides by it."""
    if "var" not in name and "std" not in name:
        return 0
    given = kwargs.get("correction", kwargs.get("unbiased", args[1] if len(args) > 1 else args[0] if args else None))
    return 1 if given is None or isinstance(given, (list, tuple)) else float(given)


@rule("max_pool2d_with_indices", "max_pool3d_with_indices", "avg_pool2d", "avg_pool3d", "avg_pool1d", "max_pool2d",
      "_adaptive_avg_pool2d", "_adaptive_avg_pool3d", "adaptive_max_pool2d", "upsample_nearest1d", "upsample_nearest2d",
      "upsample_nearest3d", "upsample_bilinear2d", "upsample_bicubic2d", "upsample_linear1d", "upsample_trilinear3d",
      "_upsample_nearest_exact2d", "_upsample_bilinear2d_aa", "_upsample_bicubic2d_aa", "reflection_pad2d",
      "reflection_pad1d", "replication_pad2d", "replication_pad1d", "reflection_pad3d", "replication_pad3d",
      "adaptive_max_pool3d", "_adaptive_avg_pool1d", "adaptive_max_pool1d", "fractional_max_pool2d",
      "_upsample_nearest_exact1d", "_upsample_nearest_exact3d")  # fmt: skip
def spatial(tracer: Tracer, out: Any, x: Tensor, *_: Any, **__: Any) -> None:
    """Works on positions; channels pass."""
    rank = {"1": 1, "3": 3}.get(tracer.operator.removesuffix("_with_indices")[-2:-1], 2)
    tracer.freeze_from(x, x.dim() - rank, "positions of")
    kept = tuple(b for b in tracer.blocks(x) if max(b[0]) < x.dim() - rank)
    for o in out if isinstance(out, tuple) else (out,):
        tracer.put(o, kept, tracer.mark(x).zero and o is (out[0] if isinstance(out, tuple) else out))


@rule("zero_", "fill_", "fill")
def filled(tracer: Tracer, out: Tensor, x: Tensor, value: Any = 0, *_: Any) -> None:
    """The same number at every index: nothing but the shape is left of what was there."""
    tracer.put(out, tracer.blocks(x), zero=not isinstance(value, Tensor) and value == 0)


@rule("im2col")
def im2col(tracer: Tracer, out: Tensor, x: Tensor, kernel: Sequence[int], *_: Any) -> None:
    """Patches: every channel becomes one row for each of its kernel's places."""
    channel = x.dim() - 3
    for d in (channel + 1, channel + 2):
        tracer.freeze(tracer.axis(x, d), "positions of")
    ids = tracer.axis(x, channel)
    rows = None if ids is None else np.repeat(ids, math.prod(kernel))
    lead = {d: tracer.axis(x, d) for d in range(channel)}
    tracer.put(out, axes_of({**lead, channel: rows}), tracer.mark(x).zero)


@rule("col2im")
def col2im(tracer: Tracer, out: Tensor, x: Tensor, size: Any, kernel: Sequence[int], *_: Any) -> None:
    """The way back: the rows of one channel go together."""
    row = x.dim() - 2
    tracer.freeze(tracer.axis(x, row + 1), "positions of")
    ids = tracer.axis(x, row)
    channels = None
    if ids is not None:
        grid = ids.reshape(-1, math.prod(kernel))
        channels = np.ascontiguousarray(grid[:, 0])
        tracer.labels.equal(grid, np.broadcast_to(grid[:, :1], grid.shape))
    lead = {d: tracer.axis(x, d) for d in range(row)}
    tracer.put(out, axes_of({**lead, row: channels}), tracer.mark(x).zero)


@rule("grid_sampler_2d", "grid_sampler_3d")
def grid_sampler(tracer: Tracer, out: Tensor, x: Tensor, grid: Tensor, *_: Any) -> None:
    """Each picture of the batch is read at its own places; heads may have been folded into the batch."""
    tracer.equal(tracer.axis(x, 0), tracer.axis(grid, 0))
    for d in range(2, x.dim()):
        tracer.freeze(tracer.axis(x, d), "positions of")
    for d in range(1, grid.dim()):
        tracer.freeze(tracer.axis(grid, d), "positions of")
    tracer.put(out, axes_of({0: tracer.axis(x, 0), 1: tracer.axis(x, 1)}), zero=tracer.mark(x).zero)


@rule("embedding")
def embedding(tracer: Tracer, out: Tensor, w: Tensor, index: Tensor, *_: Any) -> None:
    """Rows are looked up and stay; columns are channels."""
    tracer.freeze(tracer.axis(w, 0), "rows looked up by")
    for _, ids in tracer.blocks(index):
        tracer.freeze(ids, "positions of")
    tracer.put(out, axes_of({out.dim() - 1: tracer.axis(w, 1)}), tracer.mark(w).zero)
