"""Sums, means, lengths and other statistics over axes."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from podar.graph.operators import shapes, statistics
from podar.graph.operators.register import FIRST, TAKEN, operator
from podar.graph.operators.tracer import Tracer

SUMS = {"sum", "linalg_vector_norm", "norm"}
"""Zeros add nothing to them, so indices that are zero may go."""

COUNTING = SUMS | {"logsumexp"}
"""Of constants (`torch.ones_like(x).sum(1)`), and of yes and no, they are the width or a part of it: no statistic."""


@operator("mean", shape=shapes.mean, zero=FIRST, scales=FIRST, statistic=TAKEN)
@operator("sum", zero=FIRST, scales=FIRST, statistic=TAKEN)
@operator("amax", zero=FIRST, statistic=TAKEN)
@operator("var std var_mean std_mean linalg_vector_norm norm amin nanmean logsumexp", statistic=TAKEN)
@operator("max", zero=FIRST)
@operator("min argmax argmin any all prod count_nonzero")
def reduction(tracer: Tracer, out: Any, x: Tensor, *args: Any, **kwargs: Any) -> None:
    """Axes that stay keep their labels. A sum over zeros may lose them; of norms a statistic is over what remains."""
    outs = [o for o in (out if isinstance(out, tuple) else (out,)) if isinstance(o, Tensor)]
    name = tracer.operator.name
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
        if not gone.issuperset(own) or (mark.zero and name in SUMS):
            continue
        if tracer.operator.statistic is not TAKEN or tracer.is_computed_weight(mark):
            tracer.freeze(ids, "a statistic over this axis at")
            continue
        if name in COUNTING and (not mark.needs or x.dtype is torch.bool):
            tracer.freeze(ids, "the units of this axis are counted at")
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
        tracer.put(o, kept, tracer.zero(x))
        if name == "sum":
            tracer.mark(o).summed = tuple(ids for own, ids in tracer.blocks(x) if gone.issuperset(own))


def _correction(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> float:
    """What a variance takes off the number of its values before it divides by it."""
    if "var" not in name and "std" not in name:
        return 0
    given = kwargs.get("correction", kwargs.get("unbiased", args[1] if len(args) > 1 else args[0] if args else None))
    return 1 if given is None or isinstance(given, (list, tuple)) else float(given)
