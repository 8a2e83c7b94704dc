"""Imports torchvision, also where its compiled operators do not load, and supplies those that detectors need.

A torchvision wheel built for another torch (or for CUDA, on a machine without it) fails at `import torchvision` with
"operator torchvision::nms does not exist". Its Python parts, and all of timm and Ultralytics, work without the
compiled ones, once the operators' schemas exist. Non-maximum suppression and RoI align are supplied here in plain torch
(torchvision's own replacement of RoI align compiles C++ for a minute when it is first called); torchvision says clearly
that the others (deformable convolution, position-sensitive RoI) are missing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import torch

from podar.errors import PodarError, require

# As torchvision's C++ sources declare them (torchvision/csrc/ops/*.cpp).
_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio, bool aligned) -> Tensor",
    "roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
    "-> (Tensor, Tensor)",
    "ps_roi_align(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width, "
    "int sampling_ratio) -> (Tensor, Tensor)",
    "ps_roi_pool(Tensor input, Tensor rois, float spatial_scale, SymInt pooled_height, SymInt pooled_width) "
    "-> (Tensor, Tensor)",
    "deform_conv2d(Tensor input, Tensor weight, Tensor offset, Tensor mask, Tensor bias, SymInt stride_h, "
    "SymInt stride_w, SymInt pad_h, SymInt pad_w, SymInt dilation_h, SymInt dilation_w, SymInt groups, "
    "SymInt offset_groups, bool use_mask) -> Tensor",
    "box_iou_rotated(Tensor boxes1, Tensor boxes2) -> Tensor",  # torch.jit.script reads this body; it is never called
)

_library: torch.library.Library | None = None  # the declarations live as long as this object does


def import_torchvision() -> ModuleType:
    """Import torchvision; declare its operators first when, and only when, they are missing.

    Call it before any import of torchvision, timm or ultralytics. Later calls cost nothing.

    **Returns:** The module `torchvision`, with `torchvision.ops.nms` working.

    **Raises:** `PodarError` when torchvision is not installed, or broken in another way.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        return require("torchvision", extra="torchvision")  # a missing package is told from a broken one
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise PodarError(f"torchvision is installed but cannot be imported ({error}).") from error
    # The import broke off half-way: forget its pieces, declare what it missed, and import it again.
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
    _declare()
    torchvision = importlib.import_module("torchvision")
    # These files guard their operators by a check; our kernels stand in for those that the check looks for.
    for name in ("boxes", "roi_align"):
        vars(importlib.import_module(f"torchvision.ops.{name}")).update(_assert_has_ops=_nothing, _has_ops=_yes)
    return torchvision


def _nothing() -> None:
    pass


def _yes() -> bool:
    return True


def _declare() -> None:
    global _library
    if _library is not None:
        return
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS:
        name = schema.partition("(")[0]
        if not hasattr(torch.ops.torchvision, name):
            _library.define(schema)
            if name in ("nms", "qnms"):
                _library.impl(name, nms, "CompositeExplicitAutograd")
            elif name == "roi_align":
                _library.impl(name, roi_align, "CompositeExplicitAutograd")
                torch.library.register_autograd(
                    "torchvision::roi_align", _roi_align_backward, setup_context=_remember, lib=_library
                )


def nms(boxes: torch.Tensor, scores: torch.Tensor, iou_threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression in plain torch: one pass over the remaining boxes for every box kept.

    **Arguments:**

    - `boxes`: `(n, 4)`, corners x1, y1, x2, y2.
    - `scores`: `(n,)`.
    - `iou_threshold`: a box goes when its intersection over union with a kept, better one is larger.

    **Returns:** int64 indices of the boxes kept, best first.

    ```python
    >>> boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9], [20, 20, 30, 30]])
    >>> nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
    tensor([0, 2])

    ```
    """
    if boxes.dim() != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ValueError(f"nms takes boxes (n, 4) and scores (n,), not {tuple(boxes.shape)} and {tuple(scores.shape)}.")
    # Half precision overflows in the areas, integers (qnms) in the products: torchvision computes both in float too.
    corners = boxes.float() if boxes.dtype != torch.float64 else boxes
    areas = (corners[:, 2] - corners[:, 0]) * (corners[:, 3] - corners[:, 1])
    order = scores.argsort(descending=True, stable=True)
    keep: list[torch.Tensor] = []
    while order.numel():
        best, rest = order[0], order[1:]
        keep.append(best)
        top_left = torch.maximum(corners[best, :2], corners[rest, :2])
        bottom_right = torch.minimum(corners[best, 2:], corners[rest, 2:])
        overlap = (bottom_right - top_left).clamp(min=0).prod(dim=1)
        iou = overlap / (areas[best] + areas[rest] - overlap)
        order = rest[~(iou > iou_threshold)]  # a comparison in which 0 / 0 keeps the box, as in torchvision
    return torch.stack(keep) if keep else order


def roi_align(
    maps: torch.Tensor,
    rois: torch.Tensor,
    spatial_scale: float,
    pooled_height: int,
    pooled_width: int,
    sampling_ratio: int,
    aligned: bool,
) -> torch.Tensor:
    """RoI align (He et al. 2017, Mask R-CNN) in plain torch: every cell is a weighted sum of pixels, one row a pixel.

    **Arguments:**

    - `maps`: `(n, c, h, w)`.
    - `rois`: `(k, 5)`: the picture's number, and corners x1, y1, x2, y2 in the picture.
    - `spatial_scale`: pixels of a map for one of the picture.
    - `sampling_ratio`: points along one side of a cell; 0 or less: as many as the cell has pixels.
    - `aligned`: pixel centres lie at half coordinates.

    **Returns:** `(k, c, pooled_height, pooled_width)`.
    """
    pictures, channels, height, width = maps.shape
    corners = rois[:, 1:].to(torch.promote_types(maps.dtype, torch.float32)) * spatial_scale - (0.5 if aligned else 0)
    sides = corners[:, 2:] - corners[:, :2]
    if not aligned:
        sides = sides.clamp(min=1)
    offset = rois[:, :1].long() * (height * width)
    rows, row_shares, cells = [], [], []
    for axis, size, cell_count in ((1, height, pooled_height), (0, width, pooled_width)):
        places, shares = _samples(corners[:, axis], sides[:, axis], size, cell_count, sampling_ratio)
        rows.append(places)
        row_shares.append(shares)
        cells.append(cell_count)
    k = len(rois)
    if not rows[0].numel() or not rows[1].numel():
        return maps.new_zeros(k, channels, *cells)
    # Every point lies between two rows and two columns, so a cell of s × s points reads (2 s)² pixels.
    pixels = rows[0][:, :, None, :, None] * width + rows[1][:, None, :, None, :] + offset[:, :, None, None, None]
    shares = row_shares[0][:, :, None, :, None] * row_shares[1][:, None, :, None, :]
    table = maps.permute(0, 2, 3, 1).reshape(pictures * height * width, channels).to(shares.dtype)
    bags = k * cells[0] * cells[1], pixels.shape[3] * pixels.shape[4]
    found = torch.nn.functional.embedding_bag(
        pixels.reshape(bags), table, per_sample_weights=shares.reshape(bags), mode="sum"
    )
    return found.reshape(k, *cells, channels).permute(0, 3, 1, 2).contiguous().to(maps.dtype)


def _samples(
    start: torch.Tensor, side: torch.Tensor, size: int, cells: int, ratio: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Along one axis: the pixels that each cell of each box reads, and the share of each; both `(k, cells, 2 points)`.

    Points further than a pixel outside count as nothing.
    """
    k = len(start)
    counts = torch.full_like(side, ratio) if ratio > 0 else (side / cells).ceil()
    most = ratio if ratio > 0 else int(counts.max()) if k else 0
    point = torch.arange(max(most, 0), dtype=side.dtype, device=side.device)
    cell = torch.arange(cells, dtype=side.dtype, device=side.device)
    bins = (side / cells)[:, None, None]
    at = start[:, None, None] + cell[:, None] * bins + (point + 0.5) * bins / counts[:, None, None]
    taken = (at >= -1) & (at <= size) & (point < counts[:, None, None])
    at = at.clamp(0, size - 1)
    low = at.floor()
    high = (low + 1).clamp(max=size - 1)
    near = at - low
    weight = taken / counts[:, None, None].clamp(min=1)
    return torch.cat([low, high], 2).long(), torch.cat([(1 - near) * weight, near * weight], 2)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
    maps, rois, *ctx.options = inputs
    ctx.shape, ctx.dtype = maps.shape, maps.dtype
    ctx.save_for_backward(rois)


def _roi_align_backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
    """The operator is linear in its maps, so that their values do not matter; boxes get no gradient."""
    (rois,) = ctx.saved_tensors
    with torch.enable_grad():
        maps = torch.zeros(ctx.shape, dtype=ctx.dtype, device=gradient.device, requires_grad=True)
        pooled = roi_align(maps, rois.detach(), *ctx.options)
        back = torch.autograd.grad(pooled, maps, gradient)[0] if pooled.requires_grad else maps.detach()
    return back, None, None, None, None, None, None
