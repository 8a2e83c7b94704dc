"""Latency, memory and energy, measured on the runtime that will serve the model; names load when first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from podar.engine import serving as serving  # the sparse engine is one of the runtimes that are measured

__all__ = ["Measured", "OnRuntime", "Processor", "compare", "latency_ratio", "measure", "processor", "side_by_side"]

if TYPE_CHECKING:
    from podar.measuring.every_runtime import OnRuntime, side_by_side
    from podar.measuring.figures import Measured, latency_ratio
    from podar.measuring.in_turn import compare, measure
    from podar.measuring.processors import Processor, processor

# Lazy: the child process whose memory is measured imports this package, and must not import torch on the way.
_HOME = {
    "Measured": "figures",
    "OnRuntime": "every_runtime",
    "Processor": "processors",
    "compare": "in_turn",
    "latency_ratio": "figures",
    "measure": "in_turn",
    "processor": "processors",
    "side_by_side": "every_runtime",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
