"""How operators are run: those that draw random numbers or write to their arguments are not run as they are."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from podar.graph.operators.marks import storage, tensors_in
from podar.graph.operators.register import OPERATORS
from podar.graph.tracing.chance import Chance, Way
from podar.graph.tracing.twins import Again

LIBRARY_OPERATOR: Any = torch._ops.OpOverload  # pyright: ignore[reportPrivateUsage]


class Ways:
    """For every operator how it is run."""

    def __init__(self, borrowed: Callable[[], Iterable[int]]) -> None:
        """`borrowed`: storages that are the user's; an operator that would write to one raises `Again`."""
        self._borrowed, self._chance = borrowed, Chance()
        self._known: dict[Any, Way] = {}

    def of(self, func: Any) -> Way:
        """What to call instead of a function of torch's."""
        way = self._known.get(func)
        if way is None:
            way = func
            if isinstance(func, LIBRARY_OPERATOR):
                operator: Any = func
                way = self._chance.way(operator) or func
                written = _written(operator)
                if written:
                    way = self._guarded(way, written, _trains(operator))
            self._known[func] = way
        return way

    def clear(self) -> None:
        """Forget all of them."""
        self._known.clear()

    def _guarded(self, way: Way, written: list[tuple[int, str]], in_training: bool) -> Way:
        """Stop before an operator writes to memory that is the user's."""

        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not in_training or args[5]:
                targets = tensors_in([args[k] if k < len(args) else kwargs.get(n) for k, n in written])
                hit = {storage(t) for t in targets if t.layout is torch.strided}.intersection(self._borrowed())
                if hit:
                    raise Again(frozenset(hit))
            return way(*args, **kwargs)

        return guarded


def _trains(func: Any) -> bool:
    declared = OPERATORS.get(func._schema.name.removeprefix("aten::"))
    return declared is not None and declared.trains


def _written(func: Any) -> list[tuple[int, str]]:
    """Place and name of every argument that an operator writes to."""
    arguments = enumerate(func._schema.arguments)
    if _trains(func):
        return [(k, a.name) for k, a in arguments if k in (3, 4)]
    return [(k, a.name) for k, a in arguments if a.alias_info is not None and a.alias_info.is_write]
