"""Pruned models on disk: safetensors and the plan. No pickle is written or read."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from podar.errors import PodarError
from podar.files import atomic_path, write_atomic
from podar.model.wrappers import plain_name, unwrapped
from podar.plans.forms import bring_into_form, fitted
from podar.plans.plan import Plan
from podar.plans.stored import fill, read, state_of, with_values, write
from podar.plans.surgery import PLAN_ATTRIBUTE, apply, renew_masks

WEIGHTS, PLAN = "model.safetensors", "plan.json"


def save(model: nn.Module, path: str | os.PathLike[str]) -> Path:
    """Write a model to a folder: `model.safetensors` and `plan.json`.

    Whatever is written, `load` gives back to the bit: masks of torch.nn.utils.prune, shared and computed weights,
    tensors of any type and memory format, extra state that is plain data. What cannot be given back so is refused.

    **Arguments:**

    - `model`: pruned by podar, or not (then the plan is empty). DataParallel, torch.compile and moving averages around
      it, or inside it, are left away.
    - `path`: the folder; made when missing. Each file is written under a temporary name and renamed.

    **Returns:** The folder.

    **Raises:** `PodarError`: `path` is a file; or the model has lazy or quantized layers, tensors on the meta device,
    or of kinds that safetensors does not know.

    ```python
    podar.save(result.model, "runs/x")
    model = podar.load("runs/x", build=torchvision.models.resnet18)
    ```
    """
    folder = Path(path)
    if folder.exists() and not folder.is_dir():
        raise PodarError(f"{folder} is a file; podar.save writes a folder: give another path")
    bare = unwrapped(model)
    state, plan = state_of(bare), plan_of(bare)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / WEIGHTS) as temporary:
        write(state, temporary)
    write_atomic(folder / PLAN, plan.to_json())
    return folder


def load(path: str | os.PathLike[str], build: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild a saved model: the dense architecture from `build`, then the plan, then the weights.

    **Arguments:**

    - `path`: a folder that `save` wrote.
    - `build`: makes the dense model, as it was before the first prune; its weights do not matter. Masks come from the
      folder; weights that a parametrization computed become plain where `build` makes them so.

    **Returns:** The model, in eval mode.

    **Raises:** `PodarError`: a file is missing or damaged, or `build` makes another architecture.
    """
    folder = Path(path)
    for name in (WEIGHTS, PLAN):
        if not (folder / name).is_file():
            raise PodarError(f"{folder} is not a model that podar saved: {name} is missing")
    try:
        plan = Plan.load(folder / PLAN)
    except ValueError as error:
        raise PodarError(str(error)) from error
    state = read(folder / WEIGHTS)
    model = build()
    bare = unwrapped(model)
    with_values(bare)
    for step in plan.steps if plan else ():
        apply(bare, fitted(step, bare))
    bring_into_form(bare, state.tensors)
    fill(bare, state, str(folder / WEIGHTS))
    renew_masks(bare)
    return model.eval()


def plan_of(model: nn.Module) -> Plan:
    """The plan that a pruned model carries, or that parts of it carry; empty when there is none."""
    bare = unwrapped(model)
    found: list[Plan] = []
    for path, module in bare.named_modules():
        text = module.__dict__.get(PLAN_ATTRIBUTE)
        if text:
            found.append(_under(Plan.from_json(text), path, bare))
    if not found:
        return Plan()
    joined = found[0]
    for part in found[1:]:  # of two plans that cut the same tensor, the one that expects the larger tensor came first
        joined = joined + part if _before(joined, part) else part + joined
    return joined


def _under(plan: Plan, path: str, model: nn.Module) -> Plan:
    """A plan of one part of a model under the names that its tensors have in the model without wrappers."""
    stem = path + "." if path else ""

    def tensor(name: str) -> str:
        return plain_name(model, stem + name)

    def module(name: str) -> str:
        return plain_name(model, (stem + name).rstrip("."))

    *earlier, last = (step.renamed(tensor, module) for step in plan.steps)
    return replace(last, earlier=tuple(earlier))


def _before(one: Plan, other: Plan) -> bool:
    first, second = (_first_shapes(plan) for plan in (one, other))
    return all(first[name] >= second[name] for name in first.keys() & second.keys())


def _first_shapes(plan: Plan) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for step in plan.steps:
        found = {**step.shapes, **found}
    return found
