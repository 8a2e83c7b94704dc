"""Weights that torch computes from others in each forward: weight norm and spectral norm, traced whole.

Slices may go from them like from any weight. Their norms are over what went, too, so surgery makes up for it
(podar/plans/computed_weights.py): what remains of the computed weight stays as it was, to the last bit.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torch.nn.utils.spectral_norm import SpectralNorm

from podar.graph.labels import Ids
from podar.graph.operators import shapes
from podar.graph.operators.products import axes_of
from podar.graph.operators.register import operator
from podar.graph.operators.tracer import Tracer
from podar.plans.plan import Computed

PARAMETRIZED = parametrizations._SpectralNorm  # pyright: ignore[reportPrivateUsage]

REMOVE = "(remove_weight_norm or remove_parametrizations of torch.nn.utils makes it a plain weight)"


@operator("_weight_norm_interface", whole=True)
def weight_norm(tracer: Tracer, out: Any, v: Tensor, g: Tensor, dim: int = 0) -> None:
    """g · v / |v|, a length for every index of `dim`, or one for all where that is −1."""
    computed = out[0] if isinstance(out, tuple) else out
    names = [tracer.name(t) for t in (v, g)]
    known = tracer.record.computed.get(names[0] or "")
    made = Computed("length", (names[1] or "",), dim)
    if None in names or known not in (None, made) or (known is None and _is_partner(tracer, g)):
        _freeze(tracer, v, g)
        return
    rows_and_columns(tracer, v)
    if dim >= 0 and g.dim():
        tracer.equal(tracer.axis(v, dim), tracer.axis(g, dim))
    tracer.record.computed[names[0] or ""] = made
    tracer.put(computed, tracer.blocks(v), zero=True)


@operator("spectral_norm", shape=shapes.same, whole=True)
def spectral_norm(tracer: Tracer, out: Tensor, w: Tensor, u: Tensor, v: Tensor, dim: int) -> None:
    """w / (u · w v), where w is a matrix whose rows are the indices of `dim`."""
    name, *partners = (tracer.name(t) for t in (w, u, v))
    if name is None or None in partners or dim > 1:
        _freeze(tracer, w, u, v)
        return
    rows_and_columns(tracer, w)
    rows, columns = tracer.axis(w, dim), tracer.axis(w, 1 - dim)
    tracer.equal(rows, tracer.axis(u, 0))
    shape = [n for d, n in enumerate(w.shape) if d != dim]
    spread: Ids | None = None
    if columns is not None:
        spread = np.broadcast_to(columns.reshape(-1, *[1] * (w.dim() - 2)), shape).ravel()
    tracer.equal(spread, tracer.axis(v, 0))
    tracer.record.computed[name] = Computed("spectral", tuple(p for p in partners if p is not None), dim)
    tracer.put(out, tracer.blocks(w), zero=True)


def rows_and_columns(tracer: Tracer, w: Tensor) -> None:
    """Kernel positions are no candidates: only rows and columns get atoms."""
    mark, name = tracer.mark(w), tracer.name(w)
    if mark.fresh and name is not None:
        sized = [(d, n) for d, n in enumerate(w.shape[:2]) if n > 1]
        tracer.put(w, axes_of({d: tracer.layout(name, d, n) for d, n in sized}), zero=True)


def _is_partner(tracer: Tracer, g: Tensor) -> bool:
    """Whether another weight has these lengths, too: no one number would make up for both."""
    return any(tracer.name(g) in c.partners for c in tracer.record.computed.values())


def _freeze(tracer: Tracer, *tensors: Tensor) -> None:
    for t in tensors:
        for _, ids in tracer.blocks(t):
            tracer.labels.freeze(ids, f"normalised over this axis by {tracer.where} {REMOVE}")


# Spectral norm is written in Python: for a trace its two forms become one operator.


def as_one_operator(whole: Callable[..., Any], module: nn.Module, call: Callable[..., Any]) -> Callable[..., Any]:
    """What to call instead of a module while it is traced: `whole(function, name, args)` runs it as one operator.

    Hooks of spectral norm in the module are replaced, too.

    The module's `__dict__` is that of the trace, which puts the old one back.
    """
    hooks = module.__dict__["_forward_pre_hooks"]
    if hooks and any(isinstance(hook, SpectralNorm) for hook in hooks.values()):
        held = OrderedDict((k, _hook(whole, h) if isinstance(h, SpectralNorm) else h) for k, h in hooks.items())
        module.__dict__["_forward_pre_hooks"] = held
    if type(module) is not PARAMETRIZED:
        return call
    own: Any = module

    def computed(weight: Tensor) -> Any:
        if weight.dim() == 1:  # a vector is divided by its length
            return call(weight)
        return whole(alone, "spectral_norm", (weight, own._u, own._v, int(own.dim) % weight.dim()))

    def alone(weight: Tensor, *_: Any) -> Any:
        return call(weight)

    return computed


def _hook(whole: Callable[..., Any], hook: SpectralNorm) -> Callable[..., None]:
    def computed(module: nn.Module, _: Any) -> None:
        w, u, v = (getattr(module, f"{hook.name}_{end}") for end in ("orig", "u", "v"))

        def compute(*_: Any) -> Tensor:
            return hook.compute_weight(module, do_power_iteration=module.training)

        setattr(module, hook.name, whole(compute, "spectral_norm", (w, u, v, hook.dim % w.dim())))

    return computed
