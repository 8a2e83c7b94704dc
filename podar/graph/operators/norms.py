"""Batch, layer, group and RMS norms: what a channel has goes with it, statistics are over what remains."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from podar.graph.operators import shapes
from podar.graph.operators.register import operator
from podar.graph.operators.tracer import Tracer


@operator(
    "batch_norm",
    shape=shapes.batch_norm_alone,
    zero=(1, 2),
    scales=(1, 2),
    whole=True,
    arguments=("input", "weight", "bias", "running_mean", "running_var"),
)
@operator("native_batch_norm cudnn_batch_norm", shape=shapes.batch_norm, zero=(1, 2), scales=(1, 2), trains=True)
@operator("miopen_batch_norm", zero=(1, 2), scales=(1, 2), trains=True)
@operator(
    "_native_batch_norm_legit _native_batch_norm_legit_no_training",
    shape=shapes.batch_norm,
    zero=(1, 2),
    scales=(1, 2),
)
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


@operator("native_layer_norm", shape=shapes.layer_norm, zero=(2, 3), scales=(2, 3))
@operator("_fused_rms_norm", shape=shapes.layer_norm, zero=(2,), scales=(2,))
@operator("rms_norm", shape=shapes.rms_norm, zero=(2,), scales=(2,), whole=True)
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
            written = shape if tracer.operator.whole else _written_shape(tracer, len(shape))
            expr = None if written is None else tracer.sizes.expr(written[d - first])
            tracer.sizes.grid(ids, (expr,), tracer.where)
    tracer.put(y, tracer.blocks(x), zero=bool(vectors))


def _written_shape(tracer: Tracer, rank: int) -> Sequence[int] | None:
    if tracer.call is None:
        return None
    _, args, kwargs = tracer.call
    written = kwargs.get("normalized_shape", args[1] if len(args) > 1 else None)
    return written if isinstance(written, (tuple, list)) and len(written) == rank else None


@operator("native_group_norm", shape=shapes.group_norm, zero=(1, 2), scales=(1, 2))
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
