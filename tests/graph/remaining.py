"""A second oracle, for statistics that are written by hand: what is removed becomes NaN, and statistics skip NaNs.

The dense model runs with NaN in every row that was removed. Convolutions and linear layers read a NaN as nothing;
means, variances, lengths and sums are taken over what is not NaN. No list of norms is needed, and nothing is sliced.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import podar
from podar.model.inputs import call
from podar.model.tensors import named_tensors
from tests.graph.oracle import default_float64, double, noise, redraw


class SkipNaN(TorchDispatchMode):
    """Reductions over axes of which some indices are NaN take the others."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.partition("::")[2]
        if name in ("mean", "sum", "var", "std", "var_mean", "std_mean", "linalg_vector_norm", "amax", "amin"):
            place = 1 if name == "linalg_vector_norm" else 0
            dims = args[1 + place] if len(args) > 1 + place else None
            if dims and args[0].is_floating_point():
                keep = kwargs.get("keepdim", args[2 + place] if len(args) > 2 + place else False)
                return _reduced(func, name, args, kwargs, sorted(d % args[0].dim() for d in dims), bool(keep))
        return func(*args, **kwargs)


def _reduced(func: Any, name: str, args: Any, kwargs: Any, dims: list[int], keep: bool) -> Any:
    x = args[0]
    if not x.isnan().any():
        return func(*args, **kwargs)
    rest = [d for d in range(x.dim()) if d not in dims]
    rows = x.permute(*rest, *dims).reshape(*(x.shape[d] for d in rest), -1)
    shape, rows = rows.shape[:-1], rows.reshape(-1, rows.shape[-1])
    found = []
    for row in rows:
        own = row[~row.isnan()]
        if not len(own):
            found.append(None)
            continue
        options = {k: v for k, v in kwargs.items() if k == "correction"}
        given = (own, args[1], [0]) if name == "linalg_vector_norm" else (own, [0])
        result = func(*given, **options)
        found.append(result if isinstance(result, tuple) else (result,))
    nothing = rows.new_tensor(torch.nan)
    outs = []
    for k in range(2 if "_mean" in name else 1):
        out = torch.stack([nothing if f is None else f[k] for f in found]).reshape(shape)
        for d in dims if keep else ():
            out = out.unsqueeze(d)
        outs.append(out)
    return outs[0] if len(outs) == 1 else tuple(outs)


class ReadAsNothing(TorchFunctionMode):
    """Layers that contract an axis read NaN as zero, and write NaN where all of a row is."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in ("conv1d", "conv2d", "linear"):
            x, w, *rest = args
            gone = w.flatten(1).isnan().all(1)
            bias = rest[0] if rest else kwargs.get("bias")
            more = rest[1:]
            out = func(x.nan_to_num(), w.nan_to_num(), None if bias is None else bias.nan_to_num(), *more)
            dim = out.dim() - 1 if func is functional.linear else 1
            return out.index_fill(dim, gone.nonzero().flatten(), torch.nan)
        return func(*args, **kwargs)


def difference(build: Callable[[], nn.Module], inputs: Any, fraction: float = 0.5) -> tuple[float, Any]:
    """Largest difference, relative to the largest output, between surgery and NaNs; and the result of pruning."""
    dense = redraw(build().eval()).double()
    with default_float64(), torch.no_grad():
        pruned = copy.deepcopy(dense)
        result = podar.prune(pruned, double(inputs), f"channels={fraction}", scope="local", importance="random")
        for name, tensor in dense.named_parameters():
            mask = result.removed_mask(name)
            whole = mask.reshape(len(mask), -1).all(1) if mask.dim() else mask
            tensor[mask] = 0
            if mask.dim() == 1 or not whole.any():
                tensor[mask] = torch.nan
                continue
            tensor[whole] = torch.nan
        real = noise(double(inputs))
        with ReadAsNothing(), SkipNaN():
            wanted = [t for _, t in named_tensors(call(dense, real))]
        got = [t for _, t in named_tensors(call(result.model, real))]
    worst = 0.0
    for a, b in zip(wanted, got, strict=True):
        assert a.shape == b.shape and torch.isfinite(a).all() and torch.isfinite(b).all()
        worst = max(worst, float((a - b).abs().max() / a.abs().max().clamp_min(1e-6)))
    return worst, result
