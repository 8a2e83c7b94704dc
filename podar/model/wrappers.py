"""Handles what training and compiling put around a model (DataParallel, torch.compile, moving averages).

Wrappers are looked through, and are adapted to the new shapes after a cut.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator, Iterator, Sequence, Set
from typing import Any, TypeVar

import torch
from torch import nn

from podar.errors import PodarError

T = TypeVar("T")

# By class, where the model itself lies. By names, not types: asking for the types would import half of torch.
_INSIDE = {
    "DataParallel": "module",
    "DistributedDataParallel": "module",
    "AveragedModel": "module",
    "OptimizedModule": "_orig_mod",  # what torch.compile returns
    "ModelEma": "module",  # timm's moving averages
    "ModelEmaV2": "module",
    "ModelEmaV3": "module",
    "_FabricModule": "_original_module",  # Lightning Fabric's
}

SHARDED = {"FullyShardedDataParallel", "FSDPModule", "DTensor"}
"""Classes of models and parameters of which each process holds a part."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, under any number of wrappers; a model without one is given back as it is.

    ```python
    >>> import torch
    >>> layer = torch.nn.Linear(2, 2)
    >>> unwrapped(torch.nn.DataParallel(layer)) is layer
    True

    ```
    """
    while (key := inside(model)) is not None:
        model = model._modules[key]  # pyright: ignore[reportAssignmentType]
    return model


def bare(model: nn.Module) -> nn.Module:
    """The model itself, under any number of wrappers.

    **Raises:** `PodarError`: its parameters are spread over processes (FSDP).
    """
    model = unwrapped(model)
    _refuse_sharded(model, _each_module(model))
    return model


def _refuse_sharded(model: nn.Module, modules: list[nn.Module]) -> None:
    parameters = [p for m in modules for p in m._parameters.values() if p is not None]
    sharded = _of_classes([*modules, *parameters], SHARDED)
    if sharded:
        names = [name for name, thing in [*model.named_modules(), *model.named_parameters()] if thing is sharded[0]]
        raise PodarError(
            f"{names[0] or 'the model'} is spread over several processes (FSDP), none of which holds all of it: prune "
            "the model first, then shard it, and load the weights gathered from a full state dict"
        )


def _each_module(model: nn.Module) -> list[nn.Module]:
    """All modules of a model, as `model.modules()` gives them, in another order and much faster."""
    found: dict[int, nn.Module] = {}
    waiting: list[nn.Module | None] = [model]
    while waiting:
        module = waiting.pop()
        if module is not None and id(module) not in found:
            found[id(module)] = module
            waiting += module._modules.values()
    return list(found.values())


def _of_classes(things: Sequence[T], names: Set[str]) -> list[T]:
    """Those whose class, or a class that it is derived from, has one of these names."""
    kinds = {kind for kind in set(map(type, things)) if not names.isdisjoint(k.__name__ for k in kind.__mro__)}
    return [thing for thing in things if type(thing) in kinds] if kinds else []


def inside(module: nn.Module) -> str | None:
    """Under which name a wrapper holds what it wraps; None where a module is no wrapper."""
    for kind in type(module).__mro__:
        key = _INSIDE.get(kind.__name__)
        if key is not None and module._modules.get(key) is not None:
            return key
    return None


def plain_name(model: nn.Module, name: str) -> str:
    """The name of a parameter, buffer or module as it would be without any wrapper around the model or inside it.

    ```python
    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.DataParallel(torch.nn.Linear(2, 2)))
    >>> plain_name(model, "0.module.weight")
    '0.weight'

    ```
    """
    return ".".join(_plain_parts(model, name))


def is_of_wrapper(model: nn.Module, name: str) -> bool:
    """Whether a tensor is a wrapper's own, such as how often a moving average was updated."""
    module = model
    for part in name.split("."):
        key = inside(module)
        if key is not None and part != key:
            return True
        found = dict(module.named_children()).get(part)
        if found is None:
            return False
        module = found
    return False


def _plain_parts(model: nn.Module, name: str) -> Iterator[str]:
    module: nn.Module | None = model
    for part in name.split("."):
        if module is None or inside(module) != part:
            yield part
        module = None if module is None else dict(module.named_children()).get(part)


def prefix(model: nn.Module) -> str:
    """What the wrappers put before the names of the model inside: "module.", "_orig_mod.module." or nothing."""
    parts: list[str] = []
    while (key := inside(model)) is not None:
        parts.append(key)
        model = model.get_submodule(key)
    return ".".join([*parts, ""])


@contextlib.contextmanager
def reshaping(model: nn.Module) -> Generator[nn.Module]:
    """The bare model, whose parameters may get other shapes. What stands around it works with these afterwards.

    DistributedDataParallel lays out its buckets for the shapes that it saw first, and depends on objects that torch
    drops when shapes change. Left as it is it would silently no longer add up gradients. It starts anew, with the
    options and hooks that it had; like its first start that concerns all processes, which all cut the model alike.
    """
    modules, own = _each_module(model), unwrapped(model)
    _refuse_sharded(own, modules)
    wrappers = _of_classes(modules, {"DistributedDataParallel"})
    before = [_accumulators(m) for m in wrappers]
    try:
        yield own
    finally:
        for wrapper, nodes in zip(wrappers, before):
            if any(a is not b for a, b in zip(nodes, _accumulators(wrapper))):
                _start_anew(wrapper)


def _accumulators(module: nn.Module) -> list[Any]:
    """What adds up the gradient of each parameter: where DistributedDataParallel listens."""
    parameters = [p for p in module.parameters() if p.requires_grad]
    return [torch.autograd.graph.get_gradient_edge(p).node for p in parameters]


OPTIONS = ("device_ids", "output_device", "dim", "process_group", "find_unused_parameters", "gradient_as_bucket_view")
"""Arguments that DistributedDataParallel keeps as attributes; it derives its others from these."""


def _start_anew(wrapper: Any) -> None:
    from torch.nn.parallel import DistributedDataParallel

    options = {key: getattr(wrapper, key) for key in OPTIONS}
    options |= {"broadcast_buffers": wrapper.broadcast_buffers, "static_graph": wrapper.static_graph}
    options |= {"bucket_cap_mb": wrapper.bucket_bytes_cap / 2**20, "mixed_precision": wrapper.mixed_precision}
    hooks: list[tuple[Any, Any]] = list(getattr(wrapper, "_comm_hooks", ()))
    training, module = wrapper.training, wrapper.module
    modes = [(m, m.training) for m in module.modules()]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # newer versions of torch call some options by other names
        DistributedDataParallel.__init__(wrapper, module, **options)
    wrapper.training = training
    for part, mode in modes:
        part.training = mode
    for hook, state in hooks:
        wrapper.register_comm_hook(state, hook)
