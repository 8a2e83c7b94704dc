"""The two loops over every weight: podar-native's, which read memory once, or torch's where it is not installed."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

BLOCK = 1 << 18
"""Elements that torch works on at a time: few enough to stay in the cache from the first operation to the last."""

THREADS = 2
"""With more threads than this torch is faster, since podar-native works on one thread."""


_NUMPY = frozenset(
    (
        torch.float16,
        torch.float32,
        torch.float64,
        torch.int8,
        torch.int16,
        torch.int32,
        torch.int64,
        torch.uint8,
        torch.bool,
    )
)
"""Types that numpy has too."""


Sums = NDArray[np.floating[Any]]


@functools.cache
def _native() -> ModuleType | None:
    try:
        import podar_native
    except ImportError:
        return None
    return podar_native if hasattr(podar_native, "square_sums") else None  # an older version only runs programs


def _within_reach(tensor: Tensor) -> ModuleType | None:
    """podar-native, where it can read this tensor and is the faster one."""
    plain = type(tensor) is Tensor and tensor.is_cpu and tensor.layout is torch.strided and tensor.is_contiguous()
    return _native() if plain and tensor.numel() and torch.get_num_threads() <= THREADS else None


def squared(values: Tensor) -> Tensor:
    """The square of every element (torch.square goes through pow and takes a tenth longer)."""
    return values * values


def square_sums(matrices: Tensor) -> tuple[Sums, Sums] | None:
    """Sums of squares of rows (groups, rows) and columns (groups, columns) of matrices (groups, rows, columns).

    None where podar-native is not at hand.
    """
    native = _within_reach(matrices) if matrices.dtype is torch.float32 else None
    return None if native is None else native.square_sums(matrices.numpy())


def take(tensor: Tensor, rows: Tensor | None, columns: Tensor) -> Tensor:
    """`tensor[rows][:, columns]` of a contiguous tensor, contiguous; None takes all rows."""
    native = _within_reach(tensor) if tensor.dtype in _NUMPY else None
    if native is None and rows is None:
        return tensor.index_select(1, columns)
    rows = torch.arange(len(tensor), device=tensor.device) if rows is None else rows
    out = tensor.new_empty(len(rows), len(columns), *tensor.shape[2:])
    if native is not None and out.numel():
        native.take(tensor.numpy(), rows.numpy(), columns.numpy(), out.numpy())
        return out
    step = max(1, BLOCK * len(tensor) // max(1, tensor.numel()))
    passing = tensor.new_empty(min(step, len(rows)), *tensor.shape[1:])
    for start in range(0, len(rows), step):
        some = rows[start : start + step]
        block = torch.index_select(tensor, 0, some, out=passing[: len(some)])
        torch.index_select(block, 1, columns, out=out[start : start + step])
    return out
