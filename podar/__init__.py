"""podar makes a trained PyTorch network smaller and faster: the public verbs, each loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from podar.offline import switch_telemetry_off

switch_telemetry_off()

__version__ = "0.1.0"

__all__ = [
    "Graph",
    "Plan",
    "accelerate",
    "apply",
    "bake",
    "compensate",
    "distill",
    "export",
    "find_ticket",
    "finetune",
    "import_torchvision",
    "load",
    "mask",
    "measure",
    "plan",
    "prune",
    "save",
    "sparsify",
    "sparsity",
    "trace",
]

if TYPE_CHECKING:
    from podar.compat.torchvision import import_torchvision
    from podar.compensation import compensate
    from podar.exporters import export
    from podar.graph import Graph, trace
    from podar.lottery import find_ticket
    from podar.measuring import measure
    from podar.plans import Plan
    from podar.pruning import plan, prune
    from podar.recover import distill, finetune
    from podar.runtime import accelerate
    from podar.saving import load, save
    from podar.sparse import bake, sparsify, sparsity
    from podar.surgery import apply, mask

# Importing podar must not import torch: `podar --help` and shell completion answer at once.
_HOME = {
    "Graph": "podar.graph",
    "Plan": "podar.plans",
    "accelerate": "podar.runtime",
    "apply": "podar.surgery",
    "bake": "podar.sparse",
    "compensate": "podar.compensation",
    "distill": "podar.recover",
    "export": "podar.exporters",
    "find_ticket": "podar.lottery",
    "finetune": "podar.recover",
    "import_torchvision": "podar.compat.torchvision",
    "load": "podar.saving",
    "mask": "podar.surgery",
    "measure": "podar.measuring",
    "plan": "podar.pruning",
    "prune": "podar.pruning",
    "save": "podar.saving",
    "sparsify": "podar.sparse",
    "sparsity": "podar.sparse",
    "trace": "podar.graph",
}

# Rooms that examples call by their path, as in podar.sparse.gradual(model, 0.9).
_ROOMS = {"criteria", "data", "demo", "recover", "sparse"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"podar.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'podar' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # the next access finds it here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
