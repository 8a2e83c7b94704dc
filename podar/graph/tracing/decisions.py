"""What a model reads from its activations: written down in the dense run, and told to every later one.

A detector keeps the boxes that score well, a mixture of experts the tokens that chose an expert, and a branch depends
on a number. A pruned network has other values, so it would keep other boxes, and no shape could be compared any more.
So later runs get what the dense one read: the numbers, the positions, the masks.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import Tensor

from podar.graph.operators.marks import is_mask
from podar.graph.operators.register import Operator
from podar.graph.record import Decision

CONVERSIONS = frozenset(("tolist", "numpy", "__array__"))
"""Methods that take values out of a tensor without an operator."""


class Told:
    """The decisions of an earlier run. Each module and operator is given its own, in their order."""

    def __init__(self, decisions: Iterable[Decision]) -> None:
        self.waiting: dict[tuple[str, str], deque[Decision]] = {}
        for decision in decisions:
            self.waiting.setdefault((decision.operator, decision.module), deque()).append(decision)

    def next(self, operator: str, module: str, shapes: tuple[tuple[int, ...], ...]) -> Decision | None:
        """The next value read at this place; None where shapes differ, since positions would mean other things."""
        waiting = self.waiting.get((operator, module))
        if not waiting:
            return None
        decision = waiting.popleft()
        return decision if decision.shapes == shapes or isinstance(decision.value, (int, float, complex)) else None


def own(value: Any) -> Any:
    """A copy of what was read, since the model may write into it afterwards."""
    if isinstance(value, Tensor):
        return value.clone()
    if isinstance(value, (list, tuple)):
        return type(value)(own(v) for v in value)
    return value.copy() if hasattr(value, "copy") else value


def masks_of(operator: Operator, args: tuple[Any, ...]) -> Iterator[Tensor]:
    """The masks that decide how many elements an operator takes, or writes."""
    place = operator.masks
    if place is None:
        return
    given = args[place]
    masks = [m for m in (given if isinstance(given, (list, tuple)) else (given,)) if is_mask(m)]
    if masks and "put" in operator.name and len(args) > 2:
        # One value for all places, or one row: how many places there are does not matter.
        positions = sum(m.dim() if is_mask(m) else 1 for m in given if isinstance(m, Tensor))
        if args[2].numel() == 1 or args[2].dim() <= args[0].dim() - positions:
            return
    yield from masks


def with_masks(operator: Operator, args: tuple[Any, ...], told: Callable[[Tensor], Tensor]) -> tuple[Any, ...]:
    """The arguments of an operator, each of its masks exchanged for what `told` says of it."""
    replaced = {id(m): told(m) for m in masks_of(operator, args)}
    if not replaced:
        return args
    place = operator.masks or 0
    given = args[place]
    if isinstance(given, (list, tuple)):
        changed: Any = type(given)(replaced.get(id(m), m) for m in given)
    else:
        changed = replaced.get(id(given), given)
    return (*args[:place], changed, *args[place + 1 :])
