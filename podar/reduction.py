"""From elementwise importance to one number a unit: the sum over every parameter slice that the unit owns."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.criteria.registry import PerParameter
from podar.errors import PodarError
from podar.graph.graph import Graph


def unit_scores(graph: Graph, scores: Mapping[str, Tensor], fallback: nn.Module | None = None) -> NDArray[np.float64]:
    """Importance of each unit.

    Args:
        graph: the traced model.
        scores: elementwise importance by parameter name (any of its tied names).
        fallback: units of groups that no score touches are ranked by their squared weights in this model.

    Raises:
        PodarError: a score is NaN or infinite.
    """
    total = _sum(graph, scores)
    if fallback is not None:
        untouched = [f for f in graph.ties.families if not total[f.units].any()]
        if untouched:
            tensors = {n: p.detach() for n, p in fallback.named_parameters() if p.is_floating_point()}
            owned = set().union(
                *(
                    {n for n, _ in graph._members[k]}
                    for k, f in enumerate(graph.ties.families)
                    if any(f is u for u in untouched)
                )
            )
            other = _sum(graph, {n: t.square() for n, t in tensors.items() if n in owned})
            for family in untouched:
                total[family.units] = other[family.units]
    return total


def _sum(graph: Graph, scores: Mapping[str, Tensor]) -> NDArray[np.float64]:
    units = graph.solution.units
    sums: dict[int, NDArray[np.float64]] = {}  # by axis: parameters that share one are added up first
    axes: dict[int, NDArray[np.int64]] = {}

    def add(ids: NDArray[np.int64], vector: NDArray[np.floating[Any]]) -> None:
        if id(ids) not in sums:
            axes[id(ids)], sums[id(ids)] = ids, np.zeros(ids.shape)
        sums[id(ids)] += vector

    compute = scores.compute if isinstance(scores, PerParameter) else None
    values = scores.params if isinstance(scores, PerParameter) else scores
    scratch: Scratch = {}
    short: dict[tuple[torch.dtype, torch.device], list[tuple[NDArray[np.int64], Tensor]]] = {}
    for first, names in graph.aliases.items():
        name = next((n for n in names if n in values), None)
        layout = graph.record.layouts.get(first)
        if name is None or not layout:
            continue
        tensor = values[name]
        if tensor.dim() == 1:
            short.setdefault((tensor.dtype, tensor.device), []).append((layout[0], tensor.detach()))
            continue
        for dim, vector in slice_sums(tensor, {d: ids.shape for d, ids in layout.items()}, compute, scratch).items():
            add(layout[dim], vector)
    for rows in short.values():  # scales and shifts: many and small, so all in one go
        joined = slice_sums(torch.cat([t for _, t in rows]), {0: (0,)}, compute)[0]
        for (ids, _), vector in zip(rows, np.split(joined, np.cumsum([len(ids) for ids, _ in rows])[:-1])):
            add(ids, vector)
    total: NDArray[np.float64] = np.zeros(units + 1)
    if axes:
        under = graph.solution.units_of(np.concatenate([ids.ravel() for ids in axes.values()]))
        worth = np.concatenate([sums[key].ravel() for key in axes])
        if not math.isfinite(worth.sum()):
            bad = next((n for n in scores if not torch.isfinite(scores[n]).all()), "a sum of importances")
            raise PodarError(f"{bad} has NaN or infinite values: repair or reload the weights before pruning")
        for k in range(under.shape[1]):
            total += np.bincount(under[:, k], weights=worth, minlength=units + 1)
    return total[:units]


BLOCK = 1 << 18
"""Elements that are worked on at a time: few enough to stay in the cache from the first operation to the last."""

SMALL = 1 << 15
"""Elements for which new memory is cheap: the allocator has some at hand."""

Scratch = dict[tuple[torch.dtype, torch.device], Tensor]


def slice_sums(
    values: Tensor,
    layout: Mapping[int, tuple[int, ...]],
    compute: Callable[..., Tensor] | None = None,
    scratch: Scratch | None = None,
) -> dict[int, NDArray[np.floating[Any]]]:
    """Sums over all other dimensions, for each dimension in `layout`; one of shape (g, i) is summed group by group.

    Args:
        values: what is summed.
        layout: for each dimension the shape of its labels.
        compute: applied to every element first (`compute(part, out=…)`), a block at a time: memory is read once.
        scratch: where that goes; one for many tensors, since new memory takes longer than the work in it.
    """
    values = values.detach()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    plain = values.dim() > 1 and all(d < 2 and len(shape) == 1 for d, shape in layout.items())
    if plain:
        matrix = values if values.dim() == 2 else values.reshape(values.shape[0], -1)
        found = _both_sums(matrix, layout, compute, {} if scratch is None else scratch)
        if 1 in found and values.dim() > 2:
            found[1] = found[1].view(values.shape[1], -1).sum(1)
        return {d: v.cpu().numpy() for d, v in found.items()}
    values = values if compute is None else compute(values)
    found = {}
    for dim, shape in layout.items():
        if len(shape) == 1:
            others = [k for k in range(values.dim()) if k != dim]
            found[dim] = values.sum(dim=others) if others else values
        else:  # (g, i): the inputs of every group of a convolution
            parts = values.reshape(shape[0], -1, shape[1], values[0, 0].numel())
            found[dim] = parts.sum(dim=(1, 3))
    return {d: v.cpu().numpy() for d, v in found.items()}


def _both_sums(
    matrix: Tensor, wanted: Iterable[int], compute: Callable[..., Tensor] | None, scratch: Scratch
) -> dict[int, Tensor]:
    """Sums of rows (0) and of columns (1)."""
    found: dict[int, list[Tensor]] = {d: [] for d in wanted}
    whole = matrix.numel() <= BLOCK
    for part in [matrix] if whole else matrix.split(max(1, BLOCK // matrix.shape[1])):
        if compute is not None:
            part = compute(part) if part.numel() <= SMALL else compute(part, out=_room(part, scratch))
        for d, sums in found.items():
            sums.append(part.sum(1 - d))
    return {d: s[0] if whole else torch.cat(s) if d == 0 else torch.stack(s).sum(0) for d, s in found.items()}


def _room(part: Tensor, scratch: Scratch) -> Tensor:
    """Memory of the shape of `part`."""
    key = (part.dtype, part.device)
    if key not in scratch or scratch[key].numel() < part.numel():
        scratch[key] = part.new_empty(max(BLOCK, part.numel()))
    return scratch[key][: part.numel()].view(part.shape)
