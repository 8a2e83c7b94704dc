"""Nested containers of any values: the one walk through lists, tuples, mappings and dataclasses, and a copy of them.

It imports no torch: the child process whose memory is measured reads its inputs with it.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable, Mapping, MutableMapping
from typing import Any

Place = tuple[Any, ...]
"""The keys, positions and names of fields that lead to a value: ("boxes", 0)."""

_PLAIN = frozenset((int, float, bool, str, type(None)))  # these are no containers, and the most frequent values


def leaves(value: Any, place: Place = (), *, fields: bool = False) -> list[tuple[Place, Any]]:
    """Everything in a nested container that is no container itself, in order, with the place where it stands.

    **Arguments:**

    - `value`: a container, or a value that is none: its place is then `place` itself.
    - `place`: where `value` stands.
    - `fields`: the items of a named tuple are called by their fields, and not by their positions.

    ```python
    >>> leaves({"x": 1, "boxes": [2, (3,)]})
    [(('x',), 1), (('boxes', 0), 2), (('boxes', 1, 0), 3)]

    ```
    """
    found: list[tuple[Place, Any]] = []
    _gather(value, place, fields, found)
    return found


def replaced(function: Callable[[Place, Any], Any], value: Any, place: Place = ()) -> Any:
    """The same nested container with `function(place, leaf)` for each of its `leaves`.

    Each container keeps its type: a named tuple, an ordered or user-defined mapping and a dataclass come back as such.

    ```python
    >>> replaced(lambda place, leaf: leaf + 1, {"x": 1, "boxes": [2, (3,)]})
    {'x': 2, 'boxes': [3, (4,)]}

    ```
    """
    held = _items(value, False)
    if held is None:
        return function(place, value)
    return _like(value, {key: replaced(function, item, (*place, key)) for key, item in held})


def name_of(place: Place) -> str:
    """What a file calls the input that stands at a place.

    ```python
    >>> name_of(("boxes", 0))
    'boxes_0'

    ```
    """
    return "_".join(map(str, place)).replace(".", "_")


def _gather(value: Any, place: Place, fields: bool, found: list[tuple[Place, Any]]) -> None:
    held = None if type(value) in _PLAIN else _items(value, fields)
    if held is None:
        found.append((place, value))
        return
    for key, item in held:
        _gather(item, (*place, key), fields, found)


def _items(value: Any, fields: bool) -> Iterable[tuple[Any, Any]] | None:
    """What a container holds, each with its key, position or field; None for what is no container."""
    if isinstance(value, (list, tuple)):
        return zip(getattr(value, "_fields", range(len(value))), value) if fields else enumerate(value)
    if isinstance(value, Mapping):
        return value.items()
    if hasattr(type(value), "__dataclass_fields__"):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return None


def _like(value: Any, items: dict[Any, Any]) -> Any:
    """A container of the same type as `value` with other items, by the keys of `_items`."""
    kind: Any = type(value)
    if kind is dict:
        return items
    if isinstance(value, tuple):
        return kind._make(items.values()) if hasattr(kind, "_make") else kind(list(items.values()))
    if isinstance(value, Mapping) and not isinstance(value, MutableMapping):
        return kind(items)
    other = copy.copy(value)
    if isinstance(value, list):
        other[:] = items.values()
    elif isinstance(value, Mapping):
        if hasattr(kind, "__dataclass_fields__"):  # outputs of transformers, which allow no update
            return kind(**items)
        other.update(items)
    else:
        for name, item in items.items():
            object.__setattr__(other, name, item)  # this works for a frozen dataclass, too
    return other
