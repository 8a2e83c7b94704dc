"""Operators that compute index by index: functions of one number, sums, products, comparisons."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from podar.graph.operators import shapes
from podar.graph.operators.register import ALL, ANY, CARRIED, DIVIDEND, FIRST, MET, TURNED, Compared, operator, passes
from podar.graph.operators.tracer import Tracer
from podar.graph.record import Block, Blocks


@operator("relu", in_place=True, shape=shapes.same, zero=FIRST, scales=FIRST, statistic=CARRIED, direct=True)
@operator("neg", in_place=True, shape=shapes.same, zero=FIRST, scales=FIRST, statistic=CARRIED)
@operator(
    "clone _to_copy",
    shape=shapes.copied,
    zero=FIRST,
    scales=FIRST,
    statistic=CARRIED,
    compared=Compared.WITHOUT_COPIES,
)
@operator(
    "leaky_relu elu tanh silu gelu mish hardswish",
    in_place=True,
    shape=shapes.same,
    zero=FIRST,
    statistic=CARRIED,
    direct=True,
)
@operator(
    "abs asin asinh atan atanh ceil celu deg2rad erf expm1 floor frac hardtanh log1p nan_to_num rad2deg relu6 round",
    "selu sgn sign sin sinh sqrt square tan trunc",
    in_place=True,
    shape=shapes.same,
    zero=FIRST,
    statistic=CARRIED,
)
@operator("alias_copy hardshrink positive softshrink special_i1", shape=shapes.same, zero=FIRST, statistic=CARRIED)
@operator("fix", in_place=True, zero=FIRST, statistic=CARRIED)
@operator("lift", zero=FIRST, statistic=CARRIED)
@operator("dropout feature_dropout", in_place=True, shape=shapes.same, zero=FIRST)
@operator("native_dropout", shape=shapes.same, zero=FIRST)
@operator("sigmoid hardsigmoid", in_place=True, shape=shapes.same, statistic=CARRIED, direct=True)
@operator(
    "acos acosh cos cosh digamma erfc erfinv exp exp2 lgamma log log10 log2 logit sinc",
    in_place=True,
    shape=shapes.same,
    statistic=CARRIED,
)
@operator("reciprocal rsqrt", in_place=True, shape=shapes.same, statistic=TURNED)
@operator(
    "log_sigmoid softplus special_entr special_erfcx special_i0 special_ndtr", shape=shapes.same, statistic=CARRIED
)
@operator("alpha_dropout feature_alpha_dropout", in_place=True, shape=shapes.same)
@operator("threshold", in_place=True, shape=shapes.same)
@operator("logical_not", in_place=True, statistic=MET)
@operator("isnan isinf isfinite", statistic=CARRIED)
@operator("bitwise_not bernoulli rrelu_with_noise", in_place=True)
@operator("log_sigmoid_forward signbit")
def unary(tracer: Tracer, out: Any, x: Tensor, *_: Any, **__: Any) -> None:
    """Each number by itself. Where f(0) = 0 a removed channel stays zero, otherwise it would become a constant."""
    out = out[0] if isinstance(out, tuple) else out
    tracer.put(out, tracer.blocks(x), tracer.zero(x))


@operator("clamp clamp_min clamp_max", in_place=True, shape=shapes.same, statistic=CARRIED)
def clamp(tracer: Tracer, out: Tensor, x: Tensor, low: Any = None, high: Any = None) -> None:
    """Zero stays zero where it lies within the bounds."""
    numbers = not isinstance(low, Tensor) and not isinstance(high, Tensor)
    inside = numbers and (low is None or low <= 0) and (high is None or high >= 0)
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero and bool(inside))


@operator("_prelu_kernel prelu")
def prelu(tracer: Tracer, out: Tensor, x: Tensor, slope: Tensor) -> None:
    """Slopes go with their channels; zero stays zero whatever the slope."""
    tracer.put(out, join(tracer, out, [x, slope]) if slope.numel() > 1 else tracer.blocks(x), tracer.mark(x).zero)


@operator("pow", in_place=True, shape=shapes.same, statistic=CARRIED)
def power(tracer: Tracer, out: Tensor, x: Any, exponent: Any) -> None:
    """Keeps zero where the exponent is above it."""
    if not isinstance(x, Tensor) or isinstance(exponent, Tensor):
        elementwise(tracer, out, x, exponent)
        return
    tracer.put(out, tracer.blocks(x), tracer.mark(x).zero and exponent > 0)


@operator(
    "add",
    in_place=True,
    shape=shapes.broadcast,
    zero=ALL,
    scales=ALL,
    statistic=MET,
    direct=True,
    compared=Compared.WITHOUT_LAYOUT,
)
@operator("sub", in_place=True, shape=shapes.broadcast, zero=ALL, scales=ALL, statistic=MET)
@operator("rsub maximum minimum", shape=shapes.broadcast, zero=ALL, statistic=MET)
@operator("where", shape=shapes.broadcast, zero=(1, 2), statistic=MET)
@operator("fmax fmin", zero=ALL, statistic=MET)
@operator("lerp", in_place=True, shape=shapes.broadcast, scales=ALL)
@operator("addcmul", in_place=True, shape=shapes.broadcast, zero=ALL, statistic=MET)
@operator("addcdiv", in_place=True, shape=shapes.broadcast, statistic=MET)
@operator("mul", in_place=True, shape=shapes.broadcast, zero=ANY, scales=ANY, statistic=MET, direct=True)
@operator("div true_divide", in_place=True, shape=shapes.broadcast, zero=FIRST, scales=DIVIDEND, statistic=MET)
@operator("logical_and", in_place=True, zero=FIRST, statistic=MET)
@operator("floor_divide bitwise_and", in_place=True, zero=FIRST)
@operator("eq ne lt le gt ge logical_or", in_place=True, statistic=MET)
@operator("atan2", in_place=True, shape=shapes.broadcast)
@operator(
    "fmod remainder bitwise_or logical_xor bitwise_xor hypot xlogy copysign heaviside gcd float_power",
    "bitwise_left_shift bitwise_right_shift",
    in_place=True,
)
@operator("logaddexp logaddexp2 __and__ __iand__ __or__ __ior__ __lshift__ __ilshift__ __rshift__ __irshift__")
def elementwise(tracer: Tracer, out: Tensor, *args: Any, **_: Any) -> None:
    """Tensors that meet index by index go together; broadcast axes of size 1 have no labels to meet."""
    tensors = [a for a in args if isinstance(a, Tensor)]
    blocks = join(tracer, out, tensors)
    covering = {d for dims, _ in blocks for d in dims}
    zeros: list[bool | None] = []
    for a in args:
        if isinstance(a, Tensor):
            shift = out.dim() - a.dim()
            own = {d + shift for dims, _ in tracer.blocks(a) for d in dims}
            zeros.append(tracer.mark(a).zero and covering <= own)
        else:
            zeros.append(a == 0 if isinstance(a, (int, float)) else None)
    tracer.put(out, blocks, passes(tracer.operator.zero, zeros))


@operator("masked_fill", in_place=True, shape=shapes.same, statistic=MET)
def masked_fill(tracer: Tracer, out: Tensor, x: Tensor, mask: Tensor, value: Any) -> None:
    """The mask meets what it covers; zero stays zero where zeros are filled in."""
    tensors = [t for t in (x, mask, value) if isinstance(t, Tensor)]
    blocks = join(tracer, out, tensors)
    covered = {d for dims, _ in blocks for d in dims} <= {d for dims, _ in tracer.blocks(x) for d in dims}
    tracer.put(out, blocks, tracer.mark(x).zero and covered and not isinstance(value, Tensor) and value == 0)


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


@operator("glu", zero=FIRST)
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


@operator("zero_ fill_", shape=shapes.in_place)
@operator("fill")
def filled(tracer: Tracer, out: Tensor, x: Tensor, value: Any = 0, *_: Any) -> None:
    """The same number at every index: nothing but the shape is left of what was there."""
    tracer.put(out, tracer.blocks(x), zero=not isinstance(value, Tensor) and value == 0)
