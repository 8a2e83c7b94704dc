"""Finds the families of a graph that users mean by their patterns (ratios, protect, only)."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping

from podar.errors import UsageError, nearest
from podar.graph.graph import Graph
from podar.graph.groups import Group
from podar.model.patterns import means


def asked_shares(graph: Graph, ratios: Mapping[str, float]) -> tuple[set[int], dict[int, float]]:
    """Families whose share the user gave; inner dimensions named that way go in place of their heads."""
    asked: dict[int, float] = {}
    inner: set[int] = set()
    for pattern, fraction in ratios.items():
        named = [g for g in graph.groups if fnmatch.fnmatchcase(g.name, pattern)]
        chosen = named or [g for g in graph.groups if not g.held and _owns(g, graph, pattern)]
        if not chosen:
            names = [g.name for g in graph.groups]
            close = nearest(pattern, names)
            raise UsageError(
                f"ratios names {pattern!r}, which no group matches" + (f"; did you mean {close!r}?" if close else "")
            )
        if any(not g.held for g in chosen):
            chosen = [g for g in chosen if not g.held]
        for group in chosen:
            asked.update(dict.fromkeys(group.families, float(fraction)))
            if group.held:
                inner.update(group.families)
    return inner, asked


def _owns(group: Group, graph: Graph, pattern: str) -> bool:
    """Whether a pattern names a module or parameter whose outputs the group is."""
    return any(means(pattern, *graph.aliases.get(n, (n,))) for n, d in group.members if d == 0)


def protected(graph: Graph, protect: tuple[str, ...]) -> dict[int, str]:
    """Families that own slices of what the user protects, with the reason for each."""
    frozen: dict[int, str] = {}
    for pattern, named in _matching(graph, protect, "protect").items():
        for name in named:
            for family in graph.families.of_tensor(name):
                frozen.setdefault(family, f"protected by {pattern!r}")
    return frozen


def outside(graph: Graph, only: tuple[str, ...]) -> dict[int, str]:
    """Families that stay whole because only a part of the model may be cut.

    Of each pattern those families may go of which every slice lies in the part. Where a pattern has none, since it
    names lone layers, their outputs may go, and what reads them follows.
    """
    if not only:
        return {}
    named = _matching(graph, only, "only")
    part = {name for found in named.values() for name in found}
    open_families: set[int] = set()
    for found in named.values():
        families = set().union(*(graph.families.of_tensor(name) for name in found))
        makers = {k: _makers(graph, k) for k in families}
        outputs = {k for k in families if makers[k] <= part and makers[k] & set(found)}
        whole = {k for k in outputs if {n for n, _ in graph.families.members[k]} <= part}
        open_families |= whole or outputs
    why = f"outside of only={list(only)}"
    return dict.fromkeys(set(range(len(graph.families))) - open_families, why)


def _makers(graph: Graph, family: int) -> set[str]:
    """The tensors whose outputs a family is: the first, and all that mix their inputs. Norms and biases follow them."""
    outputs = [n for n, d in graph.families.members[family] if d == 0]
    mixing = {n for n in outputs if len(graph.shapes[n]) > 1 and graph.shapes[n][1] > 1}
    return mixing | {graph.families.producer(family)[0]}


def _matching(graph: Graph, wanted: tuple[str, ...], option: str) -> dict[str, list[str]]:
    """The tensors that each pattern names.

    **Raises:** `UsageError`: one names nothing.
    """
    found = graph.matching(wanted)
    for pattern, named in found.items():
        if not named:
            close = nearest(pattern, {n.rpartition(".")[0] for tied in graph.aliases.values() for n in tied})
            raise UsageError(
                f"{option} names {pattern!r}, which no layer matches" + (f"; did you mean {close!r}?" if close else "")
            )
    return found
