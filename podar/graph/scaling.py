"""Attention without `scale` divides by the root of its width: what makes up for it when that width changes."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from podar.graph.families import Families
from podar.graph.labels import Ids
from podar.graph.record import Makers, Record
from podar.model.members import Named
from podar.plans.plan import Rescale


class MultipliedSlice(NamedTuple):
    """Where on a parameter the indices of a width are."""

    name: str
    dim: int
    indices: Ids


class Scaling(NamedTuple):
    """One attention: its width, and what makes its queries and its keys, where nothing else reads them."""

    inner: Ids
    sides: tuple[tuple[MultipliedSlice, ...], ...]


def scalings(record: Record, families: Families) -> tuple[list[Scaling], dict[int, str]]:
    """All attentions without `scale`; and families that must stay, since neither side can take the factor, and why."""
    found: list[Scaling] = []
    reason: dict[int, str] = {}
    for module, inner, makers in record.scales:
        units = np.unique(families.units(inner))
        units = units[units < families.solution.units]
        sides = [side for names in makers if (side := _side(record, families, names, units))]
        if not sides:
            place = f" in {module}" if module else ""
            for family in families.of(inner):
                reason.setdefault(family, f"nothing could make up for another width of the attention{place}")
        found.append(Scaling(inner, tuple(sides)))
    return found, reason


def _side(record: Record, families: Families, names: Makers, units: Ids) -> tuple[MultipliedSlice, ...]:
    """Places of what makes q or k; none where these indices of it are read by something else too."""
    for other, blocks in record.spilled:
        if not set(names).isdisjoint(other) and any(np.isin(families.units(ids), units).any() for _, ids in blocks):
            return ()
    return tuple(place for name in names if (place := _place(record, families, name, units)))


def _place(record: Record, families: Families, name: str, units: Ids) -> MultipliedSlice | None:
    """The first axis of a parameter that has some of the units."""
    for dim, ids in record.layouts.get(name, {}).items():
        if ids.ndim == 1:
            where = np.flatnonzero(np.isin(families.units(ids), units).any(axis=-1))
            if len(where):
                return MultipliedSlice(name, dim, where)
    return None


def rescales(
    found: list[Scaling],
    layouts: Mapping[str, Mapping[int, Ids]],
    aliases: Mapping[str, list[str]],
    alive: NDArray[np.bool_],
) -> dict[str, tuple[Rescale, ...]]:
    """What to multiply, counted in the pruned model: (d'/d)^¼ on either side, or (d'/d)^½ where one side takes all.

    Then the product of q and k over √d' is what it was over √d. What comes last before attention takes the factor: the
    weights and biases, or the scale and shift of a norm after them, which would undo a factor on the weights.
    """
    factors: dict[tuple[str, int], dict[float, set[int]]] = {}
    for scaling in found:
        before, after = len(scaling.inner), int(alive[scaling.inner].sum())
        if after in (0, before):
            continue
        factor = (after / before) ** (0.5 / len(scaling.sides))
        for name, dim, indices in (place for side in scaling.sides for place in side):
            kept = indices[alive[layouts[name][dim][indices]]]
            factors.setdefault((name, dim), {}).setdefault(factor, set()).update(kept.tolist())
    multiplied: dict[str, tuple[Rescale, ...]] = {}
    for (first, dim), by_factor in factors.items():
        place = np.cumsum(alive[layouts[first][dim]]) - 1
        own = tuple(Rescale(tuple(place[sorted(rows)].tolist()), f, dim) for f, rows in by_factor.items())
        for name in aliases[first]:
            multiplied[name] = multiplied.get(name, ()) + own
    return multiplied


def scale_attributes(modules: Named, record: Record) -> list[tuple[str, str, Ids]]:
    """Float attributes that hold width^−½ in the modules that call attention without `scale`, for their other path.

    One that this path computes with is no scale: another number that happens to be the same.
    """
    by_name = dict(modules)
    scaling = {name for name, _, _ in record.scales}
    used = {(s.module, c) for s in record.steps if s.module in scaling for c in s.constants}
    found: list[tuple[str, str, Ids]] = []
    for name, ids, _ in record.scales:
        for key, value in by_name[name].__dict__.items():
            if type(value) is float and abs(value - len(ids) ** -0.5) < 1e-7 and (name, value) not in used:
                found.append((name, key, ids))
    return found
