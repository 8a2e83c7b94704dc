"""The oracle, apart from surgery: the pruned model computes what the dense one does with the same slices zeroed."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.model.inputs import call
from podar.model.tensors import named_tensors


def redraw(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fresh weights hide wrong slices: give every scale, shift and statistic values of its own."""
    generator = torch.Generator().manual_seed(seed)

    def uniform(shape: torch.Size, low: float, high: float) -> Tensor:
        return torch.rand(shape, generator=generator, dtype=torch.float64) * (high - low) + low

    with torch.no_grad():
        for name, p in model.named_parameters():
            if not p.is_floating_point() or not p.numel():
                continue
            constant = p.numel() > 1 and bool((p == p.flatten()[0]).all())
            if p.dim() == 1 or constant or p.abs().max() < 1e-3:
                low, high = (-0.5, 0.5) if name.endswith("bias") else (0.5, 1.5)
                p.copy_(uniform(p.shape, low, high))
    return model


def refill(model: nn.Module, inputs: Any) -> None:
    """Give batch norms the statistics of one pass: random ones would drown the signal of a deep network."""

    def fill(module: Any, arguments: Any) -> None:
        x = arguments[0].transpose(0, 1).flatten(1)
        if x.shape[1] > 1:
            module.running_mean.copy_(x.mean(1))
            module.running_var.copy_(x.var(1).clamp_min(1e-2))

    norms = [m for m in model.modules() if getattr(m, "running_mean", None) is not None]
    hooks = [m.register_forward_pre_hook(fill) for m in norms]
    try:
        with torch.no_grad():
            call(model, inputs)
    finally:
        for hook in hooks:
            hook.remove()


def difference(
    build: Callable[[], nn.Module], inputs: Any, cut: Callable[[nn.Module, Any], Any], real_inputs: Any = None
) -> tuple[float, Any]:
    """Largest difference, relative to the largest output, between surgery and zeros; and what `cut` returned."""
    model = redraw(build().eval()).double()
    with default_float64():  # constants that a forward pass makes too
        return _difference(model, double(inputs), cut, real_inputs)


def halved(build: Callable[[], nn.Module], inputs: Any) -> tuple[float, Any]:
    """`difference` at half of the units of every group."""
    return difference(build, inputs, lambda m, x: podar.prune(m, x, "channels=0.5", scope="local"))


@contextlib.contextmanager
def default_float64() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _difference(
    model: nn.Module, inputs: Any, cut: Callable[[nn.Module, Any], Any], real_inputs: Any
) -> tuple[float, Any]:
    refill(model, noise(inputs))
    dense = copy.deepcopy(model)
    result = cut(model, inputs)
    real = double(noise(inputs) if real_inputs is None else real_inputs)
    masks = {n: result.removed_mask(n) for n, _ in [*dense.named_parameters(), *dense.named_buffers()]}
    for name, tensor in [*dense.named_parameters(), *dense.named_buffers()]:
        with torch.no_grad():
            tensor[masks[name]] = 0
    torch.manual_seed(0)  # a model may draw random numbers
    with torch.no_grad(), restricted(dense, masks):
        wanted = [t for _, t in named_tensors(call(dense, real))]
    torch.manual_seed(0)
    with torch.no_grad():
        got = [t for _, t in named_tensors(call(result.model, real))]
    assert len(wanted) == len(got)
    worst = 0.0
    for a, b in zip(wanted, got):
        assert a.shape == b.shape, (a.shape, b.shape)
        if a.is_floating_point() and a.numel():
            assert torch.isfinite(a).all() and torch.isfinite(b).all()
            scale = max(a.abs().max().item(), 1e-6)
            worst = max(worst, (a - b).abs().max().item() / scale)
    return worst, result


def double(inputs: Any) -> Any:
    if isinstance(inputs, Tensor):
        return inputs.double() if inputs.is_floating_point() else inputs
    if isinstance(inputs, dict):
        return {k: double(v) for k, v in inputs.items()}
    return tuple(double(v) for v in inputs) if isinstance(inputs, (tuple, list)) else inputs


def noise(inputs: Any, seed: int = 1) -> Any:
    generator = torch.Generator().manual_seed(seed)
    if isinstance(inputs, Tensor):
        return (
            torch.randn(inputs.shape, generator=generator, dtype=inputs.dtype) if inputs.is_floating_point() else inputs
        )
    if isinstance(inputs, dict):
        return {k: noise(v, seed + i) for i, (k, v) in enumerate(inputs.items())}
    return tuple(noise(v, seed + i) for i, v in enumerate(inputs)) if isinstance(inputs, (tuple, list)) else inputs


@contextlib.contextmanager
def restricted(dense: nn.Module, masks: dict[str, Tensor]) -> Iterator[None]:
    """Layer, group and RMS norms of the zeroed model take their statistics over the indices that remain."""
    kept = {id(p): ~masks[n] for n, p in dense.named_parameters() if p.dim() >= 1 and masks[n].any()}
    layer, group = functional.layer_norm, functional.group_norm

    def layer_norm(x: Tensor, shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        if weight is None and len(shape) == 1:  # nothing says what went but the zeros that enter
            keep = x.flatten(0, -2).any(0)
        elif weight is not None and id(weight) in kept:
            keep = kept[id(weight)]
        else:
            return layer(x, shape, weight, bias, eps)
        index = torch.nonzero(keep).flatten()
        assert x.shape[-1] == len(keep)
        scale, shift = (None if v is None else v[index] for v in (weight, bias))
        part = layer(x.index_select(-1, index), (len(index),), scale, shift, eps)
        return torch.zeros_like(x).index_copy(-1, index, part)

    def group_norm(x: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
        if weight is None or id(weight) not in kept:
            return group(x, groups, weight, bias, eps)
        index = torch.nonzero(kept[id(weight)]).flatten()
        part = group(x.index_select(1, index), groups, weight[index], None if bias is None else bias[index], eps)
        return torch.zeros_like(x).index_copy(1, index, part)

    undo = []
    for module in dense.modules():
        weight = getattr(module, "weight", None)
        # Layer and group norms come by the functionals above; whatever else calls itself a norm over channels, here.
        own = "norm" in type(module).__name__.lower() and not isinstance(module, (nn.LayerNorm, nn.GroupNorm))
        batch = getattr(module, "running_mean", None) is not None
        if own and not batch and isinstance(weight, Tensor) and weight.dim() == 1 and id(weight) in kept:
            undo.append((module, module.forward))
            module.forward = _on_what_remains(module, module.forward, torch.nonzero(kept[id(weight)]).flatten())
    functional.layer_norm, functional.group_norm = layer_norm, group_norm
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it would run norms of its own
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
        functional.layer_norm, functional.group_norm = layer, group
        for module, forward in undo:
            module.forward = forward


def _on_what_remains(module: Any, forward: Callable[..., Tensor], index: Tensor) -> Callable[..., Tensor]:
    """The same norm, with its vectors cut, of the indices that remain; the others become zero."""

    def run(x: Tensor, *args: Any) -> Tensor:
        vectors = {k: p for k, p in module._parameters.items() if p is not None and p.dim() == 1}
        size = len(next(iter(vectors.values())))
        dim = x.dim() - 1 if x.shape[-1] == size else 1
        shape, width = getattr(module, "normalized_shape", None), getattr(module, "in_channels", None)
        try:
            for key, vector in vectors.items():
                module._parameters[key] = vector[index]
            if shape is not None:
                module.normalized_shape = (len(index),)
            if width == size:
                module.in_channels = len(index)
            same = [a.index_select(dim, index) if isinstance(a, Tensor) and a.shape == x.shape else a for a in args]
            part = forward(x.index_select(dim, index), *same)
        finally:
            module._parameters.update(vectors)
            if shape is not None:
                module.normalized_shape = shape
            if width == size:
                module.in_channels = width
        return torch.zeros_like(x, dtype=part.dtype).index_copy(dim, index, part)

    return run
