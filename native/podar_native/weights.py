"""What pruning does to every weight, in loops that read memory once: sums of squares, copies of rows and columns."""

from __future__ import annotations

import numpy as np

from podar_native import _engine


def square_sums(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums of squares of the rows and of the columns of float32 matrices (groups, rows, columns): one for each group.

    **Raises:** `TypeError`: the array is of another type, has not three dimensions, or is not contiguous.
    """
    groups, rows, columns = values.shape
    of_rows, of_columns = np.empty((groups, rows), np.float32), np.empty((groups, columns), np.float32)
    _engine.square_sums(values, of_rows, of_columns)
    return of_rows, of_columns


def take(values: np.ndarray, rows: np.ndarray, columns: np.ndarray, out: np.ndarray) -> None:
    """`out[i, j] = values[rows[i], columns[j]]`: contiguous arrays (rows, columns, …) of one type, int64 indices.

    **Raises:**

    - `IndexError`: an index lies outside.
    - `ValueError`: `out` has another type or size than what is taken.
    - `TypeError`: an array is not contiguous, or indices are of another type.
    """
    _engine.take(values, rows, columns, out)
