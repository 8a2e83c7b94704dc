"""The sparse engine's Python face: `podar.accelerate`, its runtime, its torch operator. The kernels are in native/."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from podar.engine import serving as serving  # registers the engine among the runtimes

__all__ = ["Accelerated", "AcceleratedFile", "Acceleration", "accelerate"]

if TYPE_CHECKING:
    from podar.engine.accelerating import Accelerated, Acceleration, accelerate
    from podar.engine.onnx_accelerating import AcceleratedFile

# Lazy: the child process whose memory is measured runs program files, and must not import torch on the way.
_HOME = {
    "Accelerated": "accelerating",
    "AcceleratedFile": "onnx_accelerating",
    "Acceleration": "accelerating",
    "accelerate": "accelerating",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value
