"""What must stay before anything is solved: outputs, and what stands beside parts that were not reached."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from podar.errors import PodarError
from podar.graph.record import Record
from podar.model.patterns import patterns

Outputs = str | Iterable[str] | Callable[[str], bool] | None
"""Which outputs must keep their shape: a path or several ("0", "logits"), a test of a path, or None for all."""


def freeze_outputs(record: Record, outputs: Outputs) -> None:
    """Freeze every axis of the outputs that must keep their shape.

    **Raises:** `PodarError`: a path that no output has.
    """
    paths = [path for path, _ in record.outputs]
    if callable(outputs):
        chosen = [path for path in paths if outputs(path)]
    else:
        chosen = None if outputs is None else patterns(outputs)
    for wanted in chosen or ():
        if not any(_under(path, wanted) for path in paths):
            raise PodarError(f"outputs names {wanted!r}, but the model returns {', '.join(map(repr, paths))}")
    for path, blocks in record.outputs:
        if chosen is None or any(_under(path, wanted) for wanted in chosen):
            for _, ids in blocks:
                record.labels.freeze(ids, f"output {path} of the model" if path else "output of the model")


def _under(path: str, wanted: str) -> bool:
    return path == wanted or path.startswith(wanted + ".")


def freeze_beside_unreached(record: Record, parameters: Iterable[str], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Freeze the parameters of modules whose siblings of the same shape no operator touched.

    A model that looks at its activations sends them to one sibling now and to another one later (a list of experts).
    The sibling that the example inputs did not reach has no labels, so it would keep its width and no longer fit beside
    the others. Siblings differ in one part of their path.
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
