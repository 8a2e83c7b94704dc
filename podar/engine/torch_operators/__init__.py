"""What the engine runs of torch: one file a family, one short function an operator."""

from __future__ import annotations

import importlib
import pkgutil

# Every file of this folder is imported, so that a new operator registers itself by being there.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
