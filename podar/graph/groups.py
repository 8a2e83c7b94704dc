"""Groups: families as users see them, with a name, what they own, and what they are tied to."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from podar.graph.clusters import Cluster, Ties
from podar.graph.families import Families
from podar.graph.labels import INNER, OUTER

KINDS = {0: "channels", OUTER: "heads", INNER: "inner"}


@dataclass(frozen=True)
class Group:
    """The units of one family: interchangeable candidates, such as the 64 channels of one stage.

    **Attributes:**

    - `name`: the module whose parameters produce them first, with a range or "heads"/"inner" where that is needed.
    - `kind`: "channels", "heads" or "inner" (dimensions within a head).
    - `size`: number of units.
    - `families`: numbers of the families in it; more than one where parts of an axis must lose equally many.
    - `members`: (tensor, dimension) of every slice that its units own.
    - `widths`: indices per unit on the producing axis (a head owns several).
    - `tied`: names of groups that lose the same share.
    - `steps`: in how many equal moves the group (with those tied to it) can shrink.
    - `held`: this group stays by default because its heads go instead.
    """

    name: str
    kind: str
    size: int
    families: tuple[int, ...]
    members: tuple[tuple[str, int], ...]
    widths: int
    tied: tuple[str, ...]
    steps: int
    held: bool


def groups_of(
    families: Families, ties: Ties, clusters: Sequence[Cluster], reason: Mapping[int, str]
) -> tuple[Group, ...]:
    """The groups under a choice of clusters (heads or inner dimensions), in the order in which the model meets them.

    `reason`: families that stay whole; they are in no group.
    """
    held = {k for k in ties.held(reason=reason) if k not in reason and len(families[k].units) > 1}
    cluster_of = {k: c for c, cluster in enumerate(clusters) for k in cluster.families}
    parts: dict[tuple[int, int], list[int]] = {}
    for k in sorted([*cluster_of, *(held - cluster_of.keys())]):
        parts.setdefault((cluster_of.get(k, -1), families[k].kin), []).append(k)
    names = {key: _name(families, ks) for key, ks in parts.items()}
    return tuple(
        Group(
            name=names[cluster, kin],
            kind=KINDS[families[ks[0]].role],
            size=sum(len(families[k].units) for k in ks),
            families=tuple(ks),
            members=tuple(families.members[ks[0]]),
            widths=_width(families, ks[0]),
            tied=tuple(n for key, n in names.items() if key[0] == cluster >= 0 and key != (cluster, kin)),
            steps=clusters[cluster].steps if cluster >= 0 else 0,
            held=cluster < 0,
        )
        for (cluster, kin), ks in parts.items()
    )


def _width(families: Families, family: int) -> int:
    """How many indices of the producing axis one unit owns."""
    name, dim = families.producer(family)
    units = families.units(families.layouts[name][dim])
    return int((units == families[family].units[0]).any(axis=-1).sum())


def _name(families: Families, own: list[int]) -> str:
    """The module that produces these families, and which part of its outputs they are where they are not all."""
    name, dim = families.producer(own[0])
    module = name.rpartition(".")[0] or name
    kind = KINDS[families[own[0]].role]
    if kind != "channels":
        return f"{module} {kind}"
    units = families.units(families.layouts[name][dim])
    mine = np.isin(families.family_of[units], own).any(axis=-1).ravel()
    if mine.all():
        return module
    where = np.flatnonzero(mine)
    return f"{module}[{where[0]}:{where[-1] + 1}]"
