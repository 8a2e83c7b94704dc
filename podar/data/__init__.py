"""Data sets by name or path, standardised and in memory where they fit: `load`, and what it returns."""

from __future__ import annotations

from podar.data.dataset import Dataset, Split
from podar.data.loading import complete, load
from podar.data.splitting import carve

__all__ = ["Dataset", "Split", "carve", "complete", "load"]
