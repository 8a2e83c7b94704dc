"""What a target can be given in: one file a metric, each registered by its decorator and found by this package."""

import importlib
import pkgutil

from podar.pruning.metrics.register import METRICS, Metric, metric, unregister

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

__all__ = ["METRICS", "Metric", "metric", "unregister"]
