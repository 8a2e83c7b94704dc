"""Deployable files, each checked against the model before it counts: one file per format, registered by name."""

from __future__ import annotations

import importlib
import pkgutil

from podar.formats.exporting import Exported, export
from podar.formats.registry import FORMATS, Format, file_format, liked_widths, measured_in

__all__ = ["FORMATS", "Exported", "Format", "export", "file_format", "liked_widths", "measured_in"]

# Every file of this folder is imported, so that a new format registers itself by being there.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
