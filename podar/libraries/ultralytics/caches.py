"""Reads what Ultralytics keeps as pickles beside data and runs (labels.cache, last.pt), and runs nothing of theirs."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np

from podar.libraries.ultralytics.checkpoint import read_checkpoint

_ARRAYS = {
    (f"{package}.{part}", name)
    for package in ("numpy.core", "numpy._core")
    for part, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
} | {("numpy", "ndarray"), ("numpy", "dtype")}
_BYTES = 4 << 30


class _Plain(pickle.Unpickler):
    """Numbers, texts, lists, mappings, and numpy's arrays of numbers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ARRAYS:
            raise pickle.UnpicklingError(f"it holds {module}.{name}, which is no plain data")
        return super().find_class(module, name)


def use_plain_caches() -> None:
    """From now on Ultralytics reads a data set's labels.cache as plain data; any other it makes anew."""
    from ultralytics.data import dataset, utils

    utils.load_dataset_cache_file = read_cache
    dataset.load_dataset_cache_file = read_cache  # type: ignore[attr-defined]


def read_cache(path: Path) -> dict[str, Any]:
    """The mapping in a labels.cache, which is an array of one object as numpy writes it.

    **Raises:** `FileNotFoundError`; `AssertionError` for anything but plain data, whereupon Ultralytics reads the
    labels themselves.
    """
    try:
        with Path(path).open("rb") as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = read(file)
            assert shape == () and dtype == np.dtype(object) and Path(path).stat().st_size < _BYTES, path
            found = _Plain(file).load()
    except FileNotFoundError:
        raise
    except Exception as error:  # unpickling fails in many ways
        raise AssertionError(f"{path} is no plain cache ({error})") from error
    found = found.item() if isinstance(found, np.ndarray) and found.shape == () else found
    assert isinstance(found, dict), path
    return found


def check_unpickling(path: Path) -> None:
    """See that a checkpoint which Ultralytics will unpickle holds nothing but models and plain data.

    **Raises:** `PodarError` as `read_checkpoint`.
    """
    read_checkpoint(path)
