"""Pruned models on disk: safetensors and the plan. No pickle is written or read."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from torch import nn

from podar.errors import PodarError
from podar.files import atomic_path, write_atomic
from podar.plans import Plan
from podar.surgery import PLAN_ATTRIBUTE, apply

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a model to a folder: `model.safetensors` and `plan.json`.

    Args:
        model: pruned by podar, or not (then the plan is empty).
        path: the folder; made when missing. Each file is written under a temporary name and renamed.

    Returns:
        The folder.

    Raises:
        PodarError: `path` is a file.

    Example:
        >>> podar.save(result.model, "runs/x")
        >>> model = podar.load("runs/x", build=torchvision.models.resnet18)
    """
    from safetensors.torch import save_model

    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise PodarError(f"{folder} is a file; podar.save writes a folder: give another path")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as temporary:
        save_model(model, str(temporary), metadata={"format": "pt"})
    write_atomic(folder / PLAN, plan_of(model).to_json())
    return folder


def load(path: str | os.PathLike[str], build: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild a saved model: the dense architecture from `build`, then the plan, then the weights.

    Args:
        path: a folder that `save` wrote.
        build: makes the dense model, as it was before the first prune; its weights do not matter.

    Returns:
        The model, in eval mode.

    Raises:
        PodarError: a file is missing or damaged, or `build` makes another architecture.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    folder = Path(path)
    for name in (WEIGHTS, PLAN):
        if not (folder / name).is_file():
            raise PodarError(f"{folder} is not a model that podar saved: {name} is missing")
    try:
        plan = Plan.load(folder / PLAN)
    except ValueError as error:
        raise PodarError(str(error)) from error
    model = build()
    if plan:
        apply(model, plan)
    try:
        load_model(model, str(folder / WEIGHTS))
    except SafetensorError as error:
        raise PodarError(f"{folder / WEIGHTS} is damaged ({error}); save the model again") from error
    except RuntimeError as error:
        line = " ".join(str(error).split())[:300]
        raise PodarError(f"{folder / WEIGHTS} does not fit the model that build() makes ({line})") from error
    return model.eval()


def plan_of(model: nn.Module) -> Plan:
    """The plan that a pruned model carries, empty when there is none."""
    text = model.__dict__.get(PLAN_ATTRIBUTE)
    return Plan.from_json(text) if text else Plan()
