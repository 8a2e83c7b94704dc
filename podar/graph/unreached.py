"""Experts that the example inputs did not reach: what they share with those that were reached must stay as it is."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Iterable, Mapping

from podar.graph.tracing.tracer import Record


def freeze_beside_unreached(record: Record, parameters: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Freeze the parameters of modules whose siblings of the same shape no operator touched.

    A model that looks at its activations sends them to one sibling now and to another one later (a list of experts);
    the one that was not traced would no longer fit. Siblings differ in one part of their path.
    """
    if not record.real:
        return
    names = list(parameters)
    reached: dict[tuple[str, str, tuple[int, ...]], list[str]] = {}
    for name in names:
        if name in record.layouts:
            for place in _places(name):
                reached.setdefault((*place, shapes[name]), []).append(name)
    for name in names:
        if name in record.layouts:
            continue
        for place in _places(name):
            for twin in reached.get((*place, shapes[name]), ()):
                why = f"{name.rpartition('.')[0]} stands beside it and was not reached: give inputs that reach it"
                for ids in record.layouts[twin].values():
                    record.labels.freeze(ids, why)


def _places(name: str) -> list[tuple[str, str]]:
    """What stands before and after each part of the path of a parameter's module."""
    parts = name.split(".")
    return [(".".join(parts[:k]), ".".join(parts[k + 1 :])) for k in range(len(parts) - 1)]
