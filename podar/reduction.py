"""From elementwise importance to one number a unit: the sum over every parameter slice that the unit owns."""

from __future__ import annotations

from collections.abc import Mapping

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
    where, values = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
    for first, names in graph.aliases.items():
        name = next((n for n in names if n in scores), None)
        layout = graph.record.layouts.get(first)
        if name is None or not layout:
            continue
        elements = scores.passing(name) if isinstance(scores, PerParameter) else scores[name]
        vectors = slice_sums(elements, {d: ids.shape for d, ids in layout.items()})
        if not all(np.isfinite(v.sum()) for v in vectors.values()):
            raise PodarError(f"{name} has NaN or infinite values: repair or reload the weights before pruning")
        for dim, vector in vectors.items():
            under = graph.ties.units(layout[dim]).reshape(vector.size, -1)
            for k in range(under.shape[1]):
                where.append(under[:, k])
                values.append(vector.ravel())
    sums: NDArray[np.float64] = np.zeros(units + 1)
    sums += np.bincount(np.concatenate(where), weights=np.concatenate(values), minlength=units + 1)
    return sums[:units]


def slice_sums(values: Tensor, layout: Mapping[int, tuple[int, ...]]) -> dict[int, NDArray[np.float64]]:
    """Sums over all other dimensions, for each dimension in `layout`; one of shape (g, i) is summed group by group."""
    values = values.detach()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if values.dim() == 1:
        return {0: values.double().cpu().numpy()}
    if max(layout) > 1 and any(d > 1 for d in layout):
        others = {d: [k for k in range(values.dim()) if k != d] for d in layout}
        return {d: values.sum(dim=rest).double().cpu().numpy() for d, rest in others.items()}
    # Two matrix-vector products: each reads the memory once, and BLAS reads it fastest.
    matrix = values.reshape(values.shape[0], -1)
    found = {}
    for dim, shape in layout.items():
        if dim == 0:
            vector = matrix @ matrix.new_ones(matrix.shape[1])
        elif len(shape) == 1:
            vector = (matrix.new_ones(matrix.shape[0]) @ matrix).view(values.shape[1], -1).sum(1)
        else:
            vector = matrix.view(shape[0], -1, matrix.shape[1]).sum(1).view(shape[0], shape[1], -1).sum(2)
        found[dim] = vector.double().cpu().numpy()
    return found
