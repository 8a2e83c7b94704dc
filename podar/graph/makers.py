"""Which parameters make a tensor, so that multiplying them multiplies it: where attention's scale may go."""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from podar.graph.operators.marks import Bits, Mark
from podar.graph.operators.register import ALL, ANY, FIRST, WEIGHT, Operator
from podar.graph.record import Makers


def makers(
    operator: Operator, args: tuple[Any, ...], tensors: list[Tensor], marks: Sequence[Mark], bits: Bits
) -> Makers:
    """The parameters that make the result of an operator: the result is scaled by s if all of these are."""
    scales = operator.scales
    if scales is None or not marks:
        return ()
    if scales is FIRST:
        return marks[0].makers
    if isinstance(scales, tuple):
        known = {id(t): m for t, m in zip(tensors, marks)}
        last = [args[k] for k in scales if k < len(args) and isinstance(args[k], Tensor)]
        return _all([known[id(t)] for t in last], last)
    if scales is WEIGHT:
        weights = [m.makers for m in marks if m.storage < 0 and m.makers]
        return weights[0] if len(weights) == 1 else ()
    if scales is ALL:
        number = len(args) > 1 and isinstance(args[0], Tensor) and isinstance(args[1], (int, float)) and args[1] != 0
        return () if number else _all(marks, tensors)
    return _of_one(tensors, marks, bits, both=scales is ANY)


def _all(marks: Sequence[Mark], tensors: list[Tensor]) -> Makers:
    """The makers of everything; zeros have no need of any."""
    found: dict[str, None] = {}
    for mark, tensor in zip(marks, tensors):
        if mark.makers:
            found.update(dict.fromkeys(mark.makers))
        elif mark.hollow or bool(tensor.any()):
            return ()
    return tuple(found)


def _of_one(tensors: list[Tensor], marks: Sequence[Mark], bits: Bits, both: bool) -> Makers:
    """The makers of one factor that the other one does not hang on: a parameter along the last axis before others."""
    if len(marks) < 2:  # numbers alone: torch.div(x.size(1), 2)
        return marks[0].makers if marks else ()
    sides = [(0, 1), (1, 0)] if both else [(0, 1)]
    free = [one for one, other in sides if marks[one].makers and not bits.meet(marks[one].makers, marks[other].needs)]
    own = [one for one in free if marks[one].storage < 0]
    along = [one for one in own if tensors[one].shape[-1:] > (1,)]
    chosen = along or [one for one in free if one not in own]
    return marks[chosen[0]].makers if chosen else ()
