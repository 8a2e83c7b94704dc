"""Importance: one family of criteria a file, found by the package; one contract for structured and sparse pruning."""

import importlib
import pkgutil

from podar.criteria.register import CRITERIA, Criterion, Scorer, criterion, score, unregister

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["CRITERIA", "Criterion", "Scorer", "criterion", "score", "unregister"]
