"""Data sets by name or path, standardised and in memory where they fit: `load`, and what it returns."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from podar.data.register import complete_data as complete

if TYPE_CHECKING:
    from podar.data.pictures.dataset import Dataset, Split
    from podar.data.pictures.loading import load
    from podar.data.pictures.splitting import carve

__all__ = ["Dataset", "Split", "carve", "complete", "load"]

# Shell completion and help list the sources, and must not wait for torch.
_HOME = {"Dataset": "dataset", "Split": "dataset", "carve": "splitting", "load": "loading"}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"podar.data.pictures.{_HOME[name]}"), name)
