"""From elementwise importance to one number a unit: the sum over every parameter slice that the unit owns."""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.criteria.register import PerParameter, Scorer, named, score
from podar.errors import PodarError
from podar.graph.graph import Graph
from podar.model.fast_loops import BLOCK, Sums, square_sums, squared
from podar.model.members import Members


def scored_units(
    graph: Graph,
    importance: str | Scorer,
    model: nn.Module,
    data: Any = None,
    loss: Any = None,
    changed: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda scores: scores,
) -> tuple[NDArray[np.float64], Mapping[str, Tensor] | None]:
    """Importance of each unit by a criterion, and the elementwise scores that it was summed from, where there are any.

    **Arguments:**

    - `graph`, `model`: the traced model, and the same with the weights that are meant.
    - `importance`, `data`, `loss`: as of `podar.criteria.score`.
    - `changed`: what becomes of elementwise scores before they are summed.

    **Raises:** As `podar.criteria.score` and `unit_scores`.
    """
    chosen = named(importance)
    if chosen.scores == "elements":
        elementwise = changed(score(chosen, model, data, loss))
        return unit_scores(graph, elementwise), elementwise
    chosen.check(data, loss)
    found = np.asarray(chosen.score(graph, model, data, loss), dtype=np.float64)
    if found.shape != (graph.solution.units,) or not np.isfinite(found).all():
        raise PodarError(
            f"importance {chosen.name!r} gave scores of shape {found.shape}, or some that are not finite, for "
            f"{graph.solution.units} units; it returns one finite value a unit"
        )
    return found, None


def unit_scores(graph: Graph, scores: Mapping[str, Tensor] | None = None) -> NDArray[np.float64]:
    """Importance of each unit; groups that no score touches are ranked by the squared weights of the traced model.

    **Arguments:**

    - `graph`: the traced model.
    - `scores`: elementwise importance by parameter name (any of its tied names); None: squared weights for all.

    **Raises:** `PodarError`: a score is NaN or infinite, or has not the shape that its parameter had when the model was
    traced.
    """
    if scores is None:
        return _sum(graph, PerParameter(Members(graph.model).floating, squared))
    total = _sum(graph, scores)
    touched = np.zeros(len(graph.families) + 1, dtype=bool)
    touched[graph.families.family_of[:-1][total != 0]] = True
    untouched = np.flatnonzero(~touched[:-1]).tolist()
    if untouched:
        needed = {n for k in untouched for n, _ in graph.families.members[k]}
        own = {n: t for n, t in Members(graph.model).floating.items() if n in needed}
        other = _sum(graph, PerParameter(own, squared))
        for k in untouched:
            units = graph.families[k].units
            total[units] = other[units]
    return total


def _sum(graph: Graph, scores: Mapping[str, Tensor]) -> NDArray[np.float64]:
    units = graph.solution.units
    sums: dict[int, NDArray[np.float64]] = {}  # by axis: parameters that share one are added up first
    axes: dict[int, NDArray[np.int64]] = {}

    def add(ids: NDArray[np.int64], vector: NDArray[np.float64]) -> None:
        known = sums.get(id(ids))
        if known is None:
            axes[id(ids)], sums[id(ids)] = ids, vector
        else:
            known += vector

    compute = scores.compute if isinstance(scores, PerParameter) else None
    values = scores.params if isinstance(scores, PerParameter) else scores
    short: dict[tuple[torch.dtype, torch.device], list[tuple[NDArray[np.int64], Tensor]]] = {}
    for first, names in graph.aliases.items():
        layout = graph.record.layouts.get(first)
        name = first if first in values else next((n for n in names if n in values), None)
        if name is None or not layout:
            continue
        tensor = values[name]
        if tensor.shape != graph.shapes[first]:
            raise PodarError(
                f"{name} has shape {tuple(tensor.shape)}, and had {graph.shapes[first]} when the model was traced: "
                "trace it again"
            )
        if tensor.dim() == 1:
            short.setdefault((tensor.dtype, tensor.device), []).append((layout[0], tensor))
            continue
        for dim, vector in slice_sums(tensor, {d: ids.shape for d, ids in layout.items()}, compute).items():
            add(layout[dim], vector.astype(np.float64))
    for rows in short.values():  # scales and shifts: many and small, so all in one go
        joined = slice_sums(torch.cat([t for _, t in rows]), {0: (0,)}, compute)[0].astype(np.float64)
        end = 0
        for ids, _ in rows:
            start, end = end, end + len(ids)
            add(ids, joined[start:end])
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


def slice_sums(
    values: Tensor,
    layout: Mapping[int, tuple[int, ...]],
    compute: Callable[[Tensor], Tensor] | None = None,
) -> dict[int, Sums]:
    """Sums over all other dimensions, for each dimension in `layout`; one of shape (g, i) is summed group by group.

    **Arguments:**

    - `values`: what is summed.
    - `layout`: for each dimension the shape of its labels.
    - `compute`: applied to every element first, a block at a time: memory is read once.
    """
    values = values.detach()
    values = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
    if values.dim() > 1 and max(layout) < 2:
        groups = layout[1][0] if len(layout.get(1, ())) > 1 else 1
        cube = values.reshape(groups, values.shape[0] // groups, -1)
        both = square_sums(cube) if compute is squared else None
        rows, columns = both if both is not None else _both_sums(cube, layout, compute)
        positions = values.dim() > 2  # those of a kernel, summed up as well
        found: dict[int, Sums] = {0: rows.reshape(-1)} if 0 in layout else {}
        if 1 in layout:
            found[1] = columns.reshape(*layout[1], -1).sum(-1) if positions else columns.reshape(layout[1])
        return found
    values = values if compute is None else compute(values)
    others = {d: [k for k in range(values.dim()) if k != d] for d in layout}
    return {d: (values.sum(dim=rest) if rest else values).cpu().numpy() for d, rest in others.items()}


def _both_sums(cube: Tensor, wanted: Container[int], compute: Callable[[Tensor], Tensor] | None) -> tuple[Sums, Sums]:
    """Sums of rows, and of columns group by group; `cube` has shape (groups, rows of each, columns).

    What is not wanted (rows are 0, columns 1) stays empty.
    """
    across = 0 if len(cube) > 1 else 1  # blocks are whole groups, or rows of the only one
    blocks = [cube]
    if cube.numel() > BLOCK:
        blocks = cube.split(max(1, BLOCK * cube.shape[across] // cube.numel()), across)
    rows: list[Tensor] = []
    columns: list[Tensor] = []
    for block in blocks:
        if compute is not None:
            block = compute(block)
        if 0 in wanted:
            rows.append(block.sum(2))
        if 1 in wanted:
            columns.append(block.sum(1))
    of_rows = torch.cat(rows, across) if rows else cube.new_empty(0)
    of_columns = torch.cat(columns) if columns else cube.new_empty(0)
    if columns and across == 1:
        of_columns = of_columns.sum(0)
    return of_rows.cpu().numpy(), of_columns.cpu().numpy()
