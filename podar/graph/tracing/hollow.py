"""Which operators need not be computed. A forward pass without values costs milliseconds.

Labels need shapes, not numbers, so tensors that depend on parameters or on the floating-point inputs are *hollow*:
allocated, never filled (whole numbers are: an index must lie within bounds). Whatever depends on constants only
(index tables, masks, positions) is computed for real. How hollow results look: podar/graph/operators/shapes.py.
An operator that asks a hollow tensor for its values raises `NeedsValues`, and the trace starts again with real ones.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class NeedsValues(Exception):
    """The model looks at the values of its activations (data-dependent control flow)."""


def may_be_empty(first: Any, tensors: Sequence[Tensor]) -> bool:
    """Whether an operator may run without values. Results in whole numbers are computed: they may become indices.

    `first` is its first argument: the functions of shapes know those that begin with a tensor or tensors.
    """
    floats = tensors[0].is_floating_point() or any(t.is_floating_point() or t.is_complex() for t in tensors)
    return floats and (first.layout is torch.strided if isinstance(first, Tensor) else isinstance(first, (list, tuple)))
