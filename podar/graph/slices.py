"""From units to a plan: the slices of every tensor, the attributes that follow, the rows to rescale."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from podar.errors import PodarError
from podar.graph.graph import Graph
from podar.graph.labels import Ids
from podar.graph.sizes import Attribute, SizeConflict, Solver
from podar.plans import Cut, Plan, Rescale


def plan_for(graph: Graph, removed: NDArray[np.bool_]) -> Plan:
    """The plan that removes the marked units.

    Raises:
        PodarError: some size cannot follow; the message names it.
    """
    alive = graph.solution.alive(removed)
    cuts: dict[str, tuple[Cut, ...]] = {}
    kept: dict[tuple[str, int], int] = {}
    known: dict[bytes, tuple[int, ...]] = {}  # axes that lose the same indices share one tuple
    lists: dict[int, tuple[int, ...]] = {}  # by array: parameters share them
    for first, names in graph.aliases.items():
        own = []
        for dim, ids in sorted(graph.record.layouts.get(first, {}).items()):
            if id(ids) not in lists:
                lost = ~alive[ids.ravel()]
                key = lost.tobytes()
                if key not in known:
                    known[key] = tuple(np.flatnonzero(lost).tolist())
                lists[id(ids)] = known[key]
            gone = lists[id(ids)]
            groups = ids.shape[0] if ids.ndim == 2 else 1
            kept[first, dim] = (ids.size - len(gone)) // groups
            if gone:
                own.append(Cut(dim, gone, ids.size, groups))
        if own:
            cuts.update(dict.fromkeys(names, tuple(own)))
    attributes = _attributes(graph, alive, kept)
    rescales = _rescale(graph, alive, attributes)
    shapes = {name: graph.shapes[name] for name in [*cuts, *rescales]}
    return Plan(cuts, attributes, rescales, shapes)


def _attributes(
    graph: Graph, alive: NDArray[np.bool_], kept: dict[tuple[str, int], int]
) -> dict[str, dict[str, int | float]]:
    try:
        solver = Solver(graph.record.sizes.constraints, graph.dense)
        solved = solver.apart(solver.solve(lambda ids: alive[ids]), graph.record.sizes.differences)
    except SizeConflict as conflict:
        raise PodarError(f"this plan cannot be carried out: {conflict.why}") from conflict
    found: dict[str, dict[str, int | float]] = {}
    for attribute, value in solved.items():
        key = attribute.name if attribute.at is None else f"{attribute.name}[{attribute.at}]"
        found.setdefault(attribute.module, {})[key] = value
    first = {n: f for f, names in graph.aliases.items() for n in names}
    for mirror in graph.mirrors:
        tensor = first.get(mirror.tensor)
        if tensor is None:
            continue
        size = kept.get((tensor, mirror.dim))
        if size is None and mirror.grouped:  # an axis of size 1 has no labels, and the number of groups may change
            size = graph.shapes[tensor][mirror.dim]
        if size is None:
            continue
        groups = 1
        if mirror.grouped:
            groups = solved.get(Attribute(mirror.module, "groups"), graph.dense[Attribute(mirror.module, "groups")])
        value = size * groups
        if value != graph.dense[Attribute(mirror.module, mirror.attribute)]:
            found.setdefault(mirror.module, {})[mirror.attribute] = value
    return found


def _rescale(
    graph: Graph, alive: NDArray[np.bool_], attributes: dict[str, dict[str, int | float]]
) -> dict[str, tuple[Rescale, ...]]:
    """Attention without `scale` divides by the root of its width; when that changes, q and k make up for it.

    Their rows are multiplied by (d'/d)^¼ each, so that the product over √d' is what it was over √d. A norm on q and k
    would undo this, so its scale and shift take the factor instead.
    """
    factors: dict[str, dict[float, list[int]]] = {}
    for _, inner in graph.record.scales:
        before, after = len(inner), int(alive[inner].sum())
        if after in (0, before):
            continue
        factor = (after / before) ** 0.25
        producers = _producers(graph, inner)
        for name, rows in producers.items():
            rows = [int(r) for r in rows if alive[graph.record.layouts[name][0][r]]]
            factors.setdefault(name, {}).setdefault(factor, []).extend(rows)
    for module, key, inner in graph.scale_attributes:
        after = int(alive[inner].sum())
        if 0 < after < len(inner):
            attributes.setdefault(module, {})[key] = after**-0.5
    found = {}
    for first, by_factor in factors.items():
        ids = graph.record.layouts[first][0]
        place = np.cumsum(alive[ids]) - 1
        rescales = tuple(Rescale(tuple(sorted({int(place[r]) for r in rows})), f) for f, rows in by_factor.items())
        found.update(dict.fromkeys(graph.aliases[first], rescales))
    return found


def _producers(graph: Graph, inner: Ids) -> dict[str, Ids]:
    """Rows of dim 0 that make the index `inner` of q and k: those of the norms over it where there are some."""
    wanted = _units(graph, inner)
    rows: dict[str, Ids] = {}
    for name, dims in graph.record.layouts.items():
        if 0 in dims and dims[0].ndim == 1:
            where = np.flatnonzero(np.isin(graph.ties.units(dims[0]), wanted).any(axis=-1))
            if len(where):
                rows[name] = where
    norms = {module for module, ids in graph.record.statistics if np.isin(_units(graph, ids), wanted).any()}
    scales = {name: where for name, where in rows.items() if name.rpartition(".")[0] in norms}
    return scales or rows


def _units(graph: Graph, ids: Ids) -> Ids:
    units = np.unique(graph.ties.units(ids))
    return units[units < graph.solution.units]
