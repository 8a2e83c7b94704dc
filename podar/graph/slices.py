"""From units to a plan: the slices of every tensor, the attributes that follow, the rows to rescale."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from podar.errors import PodarError
from podar.graph.by_array import ByArray
from podar.graph.equations import SizeConflict, Solver
from podar.graph.graph import Graph
from podar.graph.labels import Ids
from podar.graph.scaling import rescales
from podar.graph.sizes import Attribute
from podar.plans.plan import Cut, Indices, Plan


def plan_for(graph: Graph, removed: NDArray[np.bool_]) -> Plan:
    """The plan that removes the marked units.

    **Raises:** `PodarError`: some size cannot follow; the message names it.
    """
    alive = graph.solution.alive(removed)
    cuts: dict[str, tuple[Cut, ...]] = {}
    kept: dict[tuple[str, int], int] = {}
    known: dict[bytes, Indices] = {}  # axes that lose the same indices share one list

    def indices_of(ids: Ids) -> Indices:
        lost = ~alive[ids.ravel()]
        key = lost.tobytes()
        if key not in known:
            known[key] = Indices.of(np.flatnonzero(lost))
        return known[key]

    lists = ByArray(indices_of)  # parameters share arrays
    for first, names in graph.aliases.items():
        own = []
        for dim, ids in sorted(graph.record.layouts.get(first, {}).items()):
            gone = lists(ids)
            groups = ids.shape[0] if ids.ndim == 2 else 1
            kept[first, dim] = (ids.size - len(gone)) // groups
            if gone:
                own.append(Cut(dim, gone, ids.size, groups))
        if own:
            cuts.update(dict.fromkeys(names, tuple(own)))
    attributes = _attributes(graph, alive, kept)
    for module, key, inner in graph.scale_attributes:
        width = int(alive[inner].sum())
        if 0 < width < len(inner):
            attributes.setdefault(module, {})[key] = width**-0.5
    multiplied = rescales(graph.scalings, graph.record.layouts, graph.aliases, alive)
    computed = {name: c for name, c in graph.record.computed.items() if name in cuts}
    others = [partner for c in computed.values() for partner in c.partners]
    shapes = {name: graph.shapes[name] for name in [*cuts, *multiplied, *others]}
    return Plan(cuts, attributes, multiplied, shapes, computed=computed)


def _attributes(
    graph: Graph, alive: NDArray[np.bool_], kept: dict[tuple[str, int], int]
) -> dict[str, dict[str, int | float]]:
    dense = graph.record.sizes.dense
    try:
        solver = Solver(graph.record.sizes.constraints, dense)
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
            own = Attribute(mirror.module, "groups")
            groups = solved.get(own, dense[own])
        value = size * groups
        if value != dense[Attribute(mirror.module, mirror.attribute)]:
            found.setdefault(mirror.module, {})[mirror.attribute] = value
    return found
