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

    What makes each (the last weights and biases, or the norm after them) is multiplied by (d'/d)^¼, so that the
    product over √d' is what it was over √d; where one of them is made by nothing, the other takes the whole.
    """
    factors: dict[tuple[str, int], dict[float, set[int]]] = {}
    for module, inner, sides in graph.record.scales:
        before, after = len(inner), int(alive[inner].sum())
        if after in (0, before):
            continue
        wanted = _units(graph, inner)
        for made in sides:
            places = [p for name in made for p in _places(graph, name, wanted)]
            if not places:
                raise PodarError(f"the width of the attention in {module or 'the model'} cannot change: nothing scales")
            for name, dim, where in places:
                kept = where[alive[graph.record.layouts[name][dim][where]].astype(bool)]
                factor = (after / before) ** (0.5 / len(sides))
                factors.setdefault((name, dim), {}).setdefault(factor, set()).update(kept.tolist())
    for module, key, inner in graph.scale_attributes:
        after = int(alive[inner].sum())
        if 0 < after < len(inner):
            attributes.setdefault(module, {})[key] = after**-0.5
    found: dict[str, tuple[Rescale, ...]] = {}
    for (first, dim), by_factor in factors.items():
        place = np.cumsum(alive[graph.record.layouts[first][dim]]) - 1
        rescales = tuple(Rescale(tuple(place[sorted(rows)].tolist()), f, dim) for f, rows in by_factor.items())
        for name in graph.aliases[first]:
            found[name] = found.get(name, ()) + rescales
    return found


def _places(graph: Graph, name: str, wanted: Ids) -> list[tuple[str, int, Ids]]:
    """Where on a tensor the units `wanted` are: the first of its axes that has some, and the indices there."""
    for dim, ids in graph.record.layouts.get(name, {}).items():
        if ids.ndim == 1:
            where = np.flatnonzero(np.isin(graph.ties.units(ids), wanted).any(axis=-1))
            if len(where):
                return [(name, dim, where)]
    return []


def _units(graph: Graph, ids: Ids) -> Ids:
    units = np.unique(graph.ties.units(ids))
    return units[units < graph.solution.units]
