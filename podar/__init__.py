"""podar makes a trained PyTorch network smaller and faster: the public verbs, each loaded when it is first used."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from podar.trust.offline import switch_telemetry_off

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
    "quantize",
    "save",
    "sensitivity",
    "sparsify",
    "sparsity",
    "trace",
]

if TYPE_CHECKING:
    from podar.compensation import compensate
    from podar.engine import accelerate
    from podar.formats import export
    from podar.graph import Graph, trace
    from podar.measuring import measure
    from podar.model.torchvision_operators import import_torchvision
    from podar.plans.plan import Plan
    from podar.plans.saving import load, save
    from podar.plans.surgery import apply, mask
    from podar.pruning.group_curves import sensitivity
    from podar.pruning.pipeline import plan, prune
    from podar.quantization import quantize
    from podar.recover import distill, finetune
    from podar.sparse import bake, sparsify, sparsity
    from podar.tickets import find_ticket

# Importing podar must not import torch: `podar --help` and shell completion answer at once.
_HOME = {
    "Graph": "podar.graph",
    "Plan": "podar.plans.plan",
    "accelerate": "podar.engine",
    "apply": "podar.plans.surgery",
    "bake": "podar.sparse",
    "compensate": "podar.compensation",
    "distill": "podar.recover",
    "export": "podar.formats",
    "find_ticket": "podar.tickets",
    "finetune": "podar.recover",
    "import_torchvision": "podar.model.torchvision_operators",
    "load": "podar.plans.saving",
    "mask": "podar.plans.surgery",
    "measure": "podar.measuring",
    "plan": "podar.pruning.pipeline",
    "prune": "podar.pruning.pipeline",
    "quantize": "podar.quantization",
    "save": "podar.plans.saving",
    "sensitivity": "podar.pruning.group_curves",
    "sparsify": "podar.sparse",
    "sparsity": "podar.sparse",
    "trace": "podar.graph",
}

# Rooms that examples call by their path, as in podar.sparse.gradual(model, 0.9).
_ROOMS = {"criteria", "data", "demo", "pruning", "quantization", "recover", "sparse"}


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"podar.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'podar' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value  # the next access finds it here
    return value


importlib.import_module("podar.latency")  # a target like any other: it must be known before one is read


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
