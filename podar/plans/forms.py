"""The forms in which a layer holds its weight (plain, under a mask, computed), and a model brought into another one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize, prune

from podar.plans.plan import Plan

_HOOKS = {"WeightNorm": nn.utils.remove_weight_norm, "SpectralNorm": nn.utils.remove_spectral_norm}


def computed(model: nn.Module) -> dict[str, Tensor]:
    """Weights that a parametrization, or a norm's hook of older kind, computes from others: name → value, detached."""
    return {
        f"{path}.{key}" if path else key: getattr(module, key).detach()
        for path, module in model.named_modules()
        for key in _computed_keys(module)
    }


def parts_of(name: str, names: Iterable[str]) -> set[str]:
    """Those among some names that a computed weight of this name is computed from."""
    path, _, key = name.rpartition(".")
    stem = f"{path}." if path else ""
    beginnings = f"{stem}parametrizations.{key}."
    endings = {f"{stem}{key}_{kind}" for kind in ("g", "v", "orig", "u")}
    return {other for other in names if other.startswith(beginnings) or other in endings}


def bring_into_form(model: nn.Module, names: Iterable[str]) -> None:
    """Let a model hold its tensors in the forms that these names are of: masks put on, or made plain."""
    wanted = set(names)
    have = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers(remove_duplicate=False))}
    for name in sorted(wanted - have.keys()):
        base = name.removesuffix("_orig")
        if base != name and base in have and f"{base}_mask" in wanted:
            prune.custom_from_mask(*_place(model, base), torch.ones_like(have[base]))
            continue
        module, key = _place(model, name)
        if module is not None:
            _make_plain(module, key)


def fitted(step: Plan, model: nn.Module) -> Plan:
    """One step of a plan, renamed for a model that holds as plain weights what the other computes, or the reverse."""
    bring_into_form(model, step.shapes)
    shapes = {n: tuple(t.shape) for n, t in model.named_parameters(remove_duplicate=False)}
    shapes |= {n: tuple(t.shape) for n, t in model.named_buffers(remove_duplicate=False)}
    new: dict[str, str | None] = {}
    for name, shape in step.shapes.items():
        base = _base(name)
        if name not in shapes and base in shapes:
            new[name] = base if shapes[base] == shape else None
    return step.renamed(lambda name: new.get(name, name), lambda name: name) if new else step


def _base(name: str) -> str:
    """The computed weight that a tensor of this name is a part of, if it is one."""
    head, found, rest = name.rpartition("parametrizations.")
    if found:
        return head + rest.partition(".")[0]
    stem, _, kind = name.rpartition("_")
    return stem if kind in ("g", "v", "orig", "u", "mask") else name


def _place(model: nn.Module, name: str) -> tuple[Any, str]:
    """The module of a tensor's name, None where there is none, and the tensor's key there."""
    path, _, key = name.rpartition(".")
    try:
        return model.get_submodule(path), key
    except AttributeError:
        return None, key


def _computed_keys(module: nn.Module) -> Iterator[str]:
    if parametrize.is_parametrized(module):
        yield from module.parametrizations  # pyright: ignore[reportGeneralTypeIssues, reportCallIssue]
    for hook in module._forward_pre_hooks.values():
        if type(hook).__name__ in _HOOKS:
            yield hook.name  # pyright: ignore[reportAttributeAccessIssue, reportFunctionMemberAccess]


def _make_plain(module: nn.Module, key: str) -> None:
    """Take off what computes a weight; a mask is made permanent."""
    if parametrize.is_parametrized(module, key):
        parametrize.remove_parametrizations(module, key, leave_parametrized=True)
    for hook in list(module._forward_pre_hooks.values()):
        if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == key:
            prune.remove(module, key)
        elif type(hook).__name__ in _HOOKS and hook.name == key:  # pyright: ignore
            _HOOKS[type(hook).__name__](module, key)
            # torch leaves this hook behind: on loading it would look for the parts of a weight that is plain now.
            for number, wrapped in list(module._load_state_dict_pre_hooks.items()):
                own: Any = getattr(wrapped, "hook", wrapped)
                if type(own).__name__ == "SpectralNormLoadStateDictPreHook" and own.fn.name == key:
                    del module._load_state_dict_pre_hooks[number]
