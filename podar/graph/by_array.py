"""Remembers what was worked out from an array of labels, for as long as somebody asks for it again."""

# pyright: strict

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from podar.graph.labels import Ids

T = TypeVar("T")


class ByArray(Generic[T]):
    """A function of an array that is computed once for each array.

    Arrays are told apart by their `id`, since their contents are long. Each one is held: if it died, Python could give
    its `id` to another array, which would then get a foreign answer.
    """

    def __init__(self, compute: Callable[[Ids], T]) -> None:
        self.compute = compute
        self.known: dict[int, tuple[Ids, T]] = {}

    def __call__(self, ids: Ids) -> T:
        found = self.known.get(id(ids))
        if found is None:
            found = self.known[id(ids)] = (ids, self.compute(ids))
        return found[1]

    def set(self, ids: Ids, value: T) -> None:
        """Remember an answer that was found together with others."""
        self.known[id(ids)] = (ids, value)
