"""Models in fewer bits, chosen by measuring: one file a back end, registered by the name of the runtime it serves."""

from __future__ import annotations

import importlib
import pkgutil

from podar.quantization.choosing import quantize
from podar.quantization.register import BACKENDS, Backend, Encoding, Prepared, backend
from podar.quantization.result import Quantized, Row

__all__ = ["BACKENDS", "Backend", "Encoding", "Prepared", "Quantized", "Row", "backend", "quantize"]

# Every file of this folder is imported, so that a new back end registers itself by being there.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
