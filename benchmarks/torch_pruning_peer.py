"""Torch-Pruning 1.6.0 as its README shows it, for benchmarks that run beside it."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import torch
from torch import nn

from podar.model.inputs import call, named_tensors


def torch_pruning(folder: Path) -> Any:
    """The peer's module, from the folder that it was installed into; exits with the way to install it."""
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    try:
        return importlib.import_module("torch_pruning")
    except ImportError:
        sys.exit(f"no Torch-Pruning in {folder}: pip install --no-deps --target {folder} torch-pruning==1.6.0")


def halve(peer: Any, model: nn.Module, inputs: Any, outputs: list[str]) -> None:
    """Group magnitude, ratio 0.5; the layers that give the outputs are left out, heads are named."""
    modules = dict(model.named_modules())
    peer.pruner.BasePruner(
        model,
        inputs,
        importance=peer.importance.GroupMagnitudeImportance(),
        pruning_ratio=0.5,
        ignored_layers=[modules[name] for name in outputs],
        num_heads={m.qkv: m.num_heads for m in modules.values() if hasattr(m, "qkv") and hasattr(m, "num_heads")},
    ).step()


def output_layers(model: nn.Module, inputs: Any) -> list[str]:
    """Layers whose result the model returns; of results that are resized afterwards, those with as many channels."""
    made: dict[int, str] = {}
    alive: list[Any] = []

    def note(name: str, out: Any) -> None:
        alive.append(out)
        if isinstance(out, torch.Tensor):
            made[id(out)] = name

    layers = {n: m for n, m in model.named_modules() if isinstance(getattr(m, "weight", None), torch.Tensor)}
    hooks = [m.register_forward_hook(lambda _m, _a, out, n=n: note(n, out)) for n, m in layers.items()]
    with torch.no_grad():
        returned = [t for _, t in named_tensors(call(model, inputs))]
    for hook in hooks:
        hook.remove()
    found = {made[id(t)] for t in returned if id(t) in made}
    channels = {t.shape[1] for t in returned if id(t) not in made and t.dim() == 4}
    return sorted(found | {n for n, m in layers.items() if getattr(m, "out_channels", None) in channels})
