"""How far the outputs of a cut model lie from those of the dense one, on the same inputs."""

from __future__ import annotations

import math
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import torch

from podar.model.inputs import call
from podar.model.modes import modes_put_back
from podar.model.tensors import named_tensors

if TYPE_CHECKING:
    from torch import Tensor, nn


def moved(dense: nn.Module, cut: nn.Module, inputs: Any) -> float | None:
    """The distance of the outputs over the size of the dense ones: 0 for equal outputs, about 1 where nothing is left.

    Of all floating-point outputs together, where both models give them in one shape and finite; None where there are
    none such. Both models are run in eval mode.
    """
    with ExitStack() as stack, torch.no_grad():
        for model in (dense, cut):
            stack.enter_context(modes_put_back(model))
            model.eval()
        before, after = (dict(named_tensors(call(model, inputs))) for model in (dense, cut))
    pairs = [(before[path], after[path]) for path in before if path in after and _comparable(before[path], after[path])]
    size = math.fsum(float(a.double().square().sum()) for a, _ in pairs)
    if not size:
        return None
    return math.sqrt(math.fsum(float((a.double() - b.double()).square().sum()) for a, b in pairs) / size)


def _comparable(a: Tensor, b: Tensor) -> bool:
    same = a.shape == b.shape and a.is_floating_point() and b.is_floating_point()
    return same and bool(a.isfinite().all()) and bool(b.isfinite().all())
