"""Imports torchvision, also where its compiled operators do not load, and supplies the one that models need: NMS.

A torchvision wheel built for another torch (or for CUDA, on a machine without it) fails at `import torchvision` with
"operator torchvision::nms does not exist". Its Python parts, and all of timm and Ultralytics, work without the
compiled ones, once the operators' schemas exist. torchvision itself falls back to plain torch for RoI align and says
clearly that the others (deformable convolution, position-sensitive RoI) are missing.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

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
)

_library: torch.library.Library | None = None  # the declarations live as long as this object does


def import_torchvision() -> ModuleType:
    """Import torchvision; declare its operators first when, and only when, they are missing.

    Call it before any import of torchvision, timm or ultralytics. Later calls cost nothing.

    **Returns:** the module `torchvision`, with `torchvision.ops.nms` working.

    **Raises:** `PodarError` when torchvision is not installed, or broken in another way.
    """
    if "torchvision" in sys.modules:
        return sys.modules["torchvision"]
    try:
        return importlib.import_module("torchvision")
    except ImportError:
        return require("torchvision", extra="torchvision")  # tells a missing package from a broken one
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise PodarError(f"torchvision is installed but cannot be imported ({error}).") from error
    # The import broke off half-way: forget its pieces, declare what it missed, and import it again.
    for name in [name for name in sys.modules if name.startswith("torchvision.")]:
        del sys.modules[name]
    _declare()
    torchvision = importlib.import_module("torchvision")
    # torchvision.ops.boxes guards nms by this check; our kernel stands in for the one that the check looks for.
    vars(importlib.import_module("torchvision.ops.boxes"))["_assert_has_ops"] = lambda: None
    return torchvision


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
        order = rest[~(iou > iou_threshold)]  # written so that 0 / 0 keeps the box, as in torchvision
    return torch.stack(keep) if keep else order
