"""Norms that are written by hand: a statistic over an axis that can go is taken over what remains.

A mean, a variance, a length or a sum over channels changes when channels go. A norm may change so, as a layer norm
does, and nothing else may: so a statistic is followed from where it is taken until it meets values of its own axis
again. Where they have it subtracted, or are divided by it, it was a norm. Used in any other way (as a gate, as a
feature that a layer reads, as an output of the model), it freezes the axis that it was taken over.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from podar.graph.families import Families
from podar.graph.labels import Ids
from podar.graph.operators.marks import Mark, Statistic
from podar.graph.operators.register import CARRIED, MET, TAKEN, TURNED
from podar.graph.operators.tracer import Tracer
from podar.graph.record import Norm
from podar.graph.sizes import Axis, Equality, Expr, Size, Term


def take(tracer: Tracer, outs: Iterable[Tensor], ids: Ids, correction: float = 0, beside: int = 1) -> None:
    """Results of a reduction over an axis with these labels become statistics.

    A variance that divides by n − `correction` needs more values than that, where `beside` more axes do not bring them.
    """
    why = f"a statistic over this axis at {tracer.where}"
    if correction > 0 and beside <= correction:
        few = int(correction) + 1
        if ids.size <= few:
            tracer.labels.freeze(ids, f"a variance needs more values than one at {tracer.where}")
            return
        flat = np.ascontiguousarray(ids.ravel())
        bound = Equality(Term("//", int(correction), Axis(flat)), 0, tracer.where)
        tracer.sizes.constraints.append(bound)
        tracer.record.least.append((flat, few))
    for out in outs:
        mark = tracer.mark(out)
        before = () if mark.statistic is None else mark.statistic.over
        mark.statistic = Statistic((*before, (ids, why)))


def means_among(tracer: Tracer, summed: Sequence[Ids], out: Tensor, sizes: Iterable[Size]) -> list[Size]:
    """A sum over the axes `summed` was divided by these sizes: those that made no mean of it are left."""
    left: list[Size] = []
    for size in sizes:
        over = [ids for ids in summed if _is_size_of(size.expr, ids)]
        if not over:
            left.append(size)
            continue
        steps = tracer.record.steps  # verification compares nothing with what is no number: this one follows the cut
        steps[-1] = steps[-1]._replace(constants=(math.nan,) * len(steps[-1].constants))
        known = tracer.mark(out).statistic
        if known is None or not any(ids is over[0] for ids, _ in known.over):
            take(tracer, [out], over[0])
    return left


def _is_size_of(expr: Expr, ids: Ids) -> bool:
    """Whether an expression is the size of an axis, or so many times that size."""
    if isinstance(expr, Term) and expr.symbol == "*":
        sides = [e for e in (expr.left, expr.right) if not isinstance(e, int)]
        return len(sides) == 1 and _is_size_of(sides[0], ids)
    return isinstance(expr, Axis) and expr.ids.ndim == ids.ndim == 1 and np.array_equal(expr.ids, ids)


def follow(
    tracer: Tracer, args: Sequence[Any], tensors: Sequence[Tensor], marks: Sequence[Mark], outs: Sequence[Tensor]
) -> None:
    """Let the results of the operator of the moment be what its statistics make of them."""
    own = [m.statistic for m in marks if m.statistic is not None]
    if not own:
        return
    flow = tracer.operator.statistic
    if flow in (TAKEN, CARRIED, TURNED):
        made = _carried(tracer, args, own[0], outs[0])
        for out in outs:
            before = tracer.mark(out).statistic  # a reduction over more axes
            fresh = () if before is None or before in own else before.over
            tracer.mark(out).statistic = replace(made, over=(*made.over, *fresh))
    elif flow is MET:
        tracer.mark(outs[0]).statistic = _met(tracer, args, tensors, marks, outs[0])
    else:
        refuse(tracer, own)


def refuse(tracer: Tracer, statistics: Iterable[Statistic]) -> None:
    """Freeze the axes that these were taken over."""
    for statistic in statistics:
        for ids, why in statistic.over:
            tracer.labels.freeze(ids, why)


def no_norms(norms: Iterable[Norm], families: Families) -> dict[int, str]:
    """Families that must stay, and why: a statistic over them was subtracted from values, or divided values, that do
    not have their axis, so that it was no norm.
    """
    reason: dict[int, str] = {}
    for norm in norms:
        units = np.unique(families.units(norm.over))
        units = units[units < families.solution.units]
        if not any(np.isin(families.units(ids), units).any() for ids in norm.met):
            for family in families.of(norm.over):
                reason.setdefault(family, norm.why)
    return reason


def _carried(tracer: Tracer, args: Sequence[Any], one: Statistic, out: Tensor) -> Statistic:
    """What an operator of one tensor makes of a statistic."""
    name = tracer.operator.base
    if tracer.operator.statistic is TURNED or (name == "pow" and isinstance(args[1], (int, float)) and args[1] < 0):
        return replace(one, divides=not one.divides)
    if name == "neg":
        return replace(one, negative=not one.negative)
    if name in ("expand", "repeat") and len(tracer.blocks(out)) > len(tracer.blocks(args[0])):
        return replace(one, spread=True)
    return one


def _met(
    tracer: Tracer, args: Sequence[Any], tensors: Sequence[Tensor], marks: Sequence[Mark], out: Tensor
) -> Statistic | None:
    """What comes of statistics that meet other tensors; None where they have done their work."""
    name = tracer.operator.base
    own = [m.statistic for m in marks if m.statistic is not None]
    others = [(t, m) for t, m in zip(tensors, marks) if m.statistic is None]
    covered = {d for t, m in zip(tensors, marks) if m.statistic is not None for d in _dims(tracer, t, out)}
    back = any(s.spread or s.scaled for s in own)
    met = [ids for t, _ in others for d, ids in _labels(tracer, t, out) if back or d not in covered]
    over = tuple({id(ids): (ids, why) for s in own for ids, why in s.over}.values())
    joined = Statistic(
        over,
        all(s.divides for s in own) and name not in ("add", "sub"),
        all(s.negative for s in own),
        any(s.spread for s in own),
        any(s.scaled for s in own),
    )
    if not met:
        return _among_themselves(name, args, joined, tensors, marks)
    roles = _roles(args, tensors, marks)
    if _is_norm(name, roles, joined):
        tracer.record.norms += [Norm(ids, tuple(met), why) for ids, why in over]
        if name not in ("sub", "rsub", "add"):
            tracer.mark(out).normal = frozenset(id(ids) for ids, _ in over)
        return None
    if name == "mul" and not joined.scaled and any({id(ids) for ids, _ in over} <= m.normal for _, m in others):
        return replace(joined, scaled=True)
    refuse(tracer, own)
    return None


def _among_themselves(
    name: str, args: Sequence[Any], joined: Statistic, tensors: Sequence[Tensor], marks: Sequence[Any]
) -> Statistic:
    """Statistics with each other, and with values that do not have their axis (an epsilon, a temperature)."""
    first, *rest = _roles(args, tensors, marks)
    if name in ("div", "true_divide"):
        upside = joined.divides if first and True not in rest else not joined.divides and not first
        return replace(joined, divides=upside)
    if name == "rsub" or (name == "sub" and not first):
        return replace(joined, negative=not joined.negative, divides=False)
    return joined


def _is_norm(name: str, roles: list[bool], joined: Statistic) -> bool:
    """Whether values have statistics of their axis taken off, or are divided by them."""
    if name in ("sub", "rsub"):
        return True
    if name == "add":
        return joined.negative
    if joined.scaled or roles[0]:
        return name == "mul" and joined.divides and not joined.scaled
    if name in ("mul", "addcmul"):
        return joined.divides
    return not joined.divides and (name in ("div", "true_divide") or (name == "addcdiv" and not roles[1]))


def _roles(args: Sequence[Any], tensors: Sequence[Tensor], marks: Sequence[Mark]) -> list[bool]:
    """For each argument whether it is a statistic."""
    statistics = {id(t) for t, m in zip(tensors, marks) if m.statistic is not None}
    return [id(a) in statistics for a in args]


def _labels(tracer: Tracer, tensor: Tensor, out: Tensor) -> list[tuple[int, Ids]]:
    """Labels of a tensor, with a dimension of the result that each lies over."""
    shift = out.dim() - tensor.dim()
    return [(d + shift, ids) for dims, ids in tracer.blocks(tensor) for d in dims]


def _dims(tracer: Tracer, tensor: Tensor, out: Tensor) -> list[int]:
    return [d for d, _ in _labels(tracer, tensor, out)]
