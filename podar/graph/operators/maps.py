"""Operators over the positions of maps: pooling, resizing, padding, reading at places; channels pass."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from typing import Any

from torch import Tensor

from podar.graph.operators import shapes
from podar.graph.operators.products import axes_of
from podar.graph.operators.register import FIRST, operator
from podar.graph.operators.tracer import Tracer


@operator("max_pool2d_with_indices", shape=shapes.max_pool, zero=FIRST, scales=FIRST)
@operator("avg_pool2d", shape=shapes.avg_pool, zero=FIRST, scales=FIRST)
@operator(
    "_adaptive_avg_pool2d upsample_nearest2d upsample_bilinear2d upsample_bicubic2d", shape=shapes.resized, zero=FIRST
)
@operator(
    "max_pool2d max_pool3d_with_indices avg_pool1d avg_pool3d adaptive_max_pool1d adaptive_max_pool2d",
    "adaptive_max_pool3d _adaptive_avg_pool3d fractional_max_pool2d upsample_nearest1d upsample_nearest3d",
    "upsample_linear1d upsample_trilinear3d _upsample_nearest_exact1d _upsample_nearest_exact2d",
    "_upsample_nearest_exact3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa reflection_pad1d reflection_pad2d",
    "reflection_pad3d replication_pad1d replication_pad2d replication_pad3d",
    zero=FIRST,
)
def spatial(tracer: Tracer, out: Any, x: Tensor, *_: Any, **__: Any) -> None:
    """Works on positions; channels pass."""
    rank = {"1": 1, "3": 3}.get(tracer.operator.name.removesuffix("_with_indices")[-2:-1], 2)
    tracer.freeze_from(x, x.dim() - rank, "positions of")
    kept = tuple(b for b in tracer.blocks(x) if max(b[0]) < x.dim() - rank)
    for o in out if isinstance(out, tuple) else (out,):
        tracer.put(o, kept, tracer.mark(x).zero and o is (out[0] if isinstance(out, tuple) else out))


@operator("grid_sampler_2d grid_sampler_3d")
def grid_sampler(tracer: Tracer, out: Tensor, x: Tensor, grid: Tensor, *_: Any) -> None:
    """Each picture of the batch is read at its own places; heads may have been folded into the batch."""
    tracer.equal(tracer.axis(x, 0), tracer.axis(grid, 0))
    for d in range(2, x.dim()):
        tracer.freeze(tracer.axis(x, d), "positions of")
    for d in range(1, grid.dim()):
        tracer.freeze(tracer.axis(grid, d), "positions of")
    tracer.put(out, axes_of({0: tracer.axis(x, 0), 1: tracer.axis(x, 1)}), zero=tracer.mark(x).zero)


@operator("torchvision::roi_align", shape=shapes.roi_align)
@operator("torchvision::roi_pool")
def regions(tracer: Tracer, out: Any, x: Tensor, boxes: Tensor, *_: Any) -> None:
    """Boxes are read from maps; channels pass."""
    for d in (0, 2, 3):
        tracer.freeze(tracer.axis(x, d), "positions of")
    tracer.freeze_all(boxes, "positions of")
    y = out[0] if isinstance(out, (list, tuple)) else out
    tracer.put(y, axes_of({1: tracer.axis(x, 1)}), zero=tracer.mark(x).zero)
