"""After surgery, trace again and compare: every operator, every shape and every constant must be what the plan says."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from podar.errors import PodarError, first_line
from podar.graph.graph import Graph
from podar.graph.operators.register import OPERATORS, Compared
from podar.graph.record import Step
from podar.graph.tracing.running import Change, replay, replay_training
from podar.model.inputs import ExampleInputs

WITHOUT: tuple[frozenset[Compared], ...] = (
    frozenset({Compared.WITHOUT_COPIES}),
    frozenset({Compared.WITHOUT_COPIES, Compared.WITHOUT_LAYOUT}),
)
"""What is left out of a comparison: first copies, then, where the runs differ, what torch may do otherwise, too."""


class ChangedNumber(PodarError):
    """The smaller model computes with another number than the dense one: a width reached a value unseen."""

    def __init__(self, step: Step) -> None:
        self.where = _place(step)
        super().__init__(
            f"the numbers that {self.where} computes with depend on a width that this cut changes; "
            "the model is left as it was"
        )


@dataclass(frozen=True)
class Expectation:
    """The traced model and the units that went."""

    graph: Graph
    removed: NDArray[np.bool_]


def verify_trace(
    model: nn.Module,
    example_inputs: ExampleInputs,
    expected: Expectation,
    real: bool = False,
    change: Change | None = None,
) -> None:
    """Run the pruned model (for `real` with values) and compare its operators with those of the dense one.

    **Arguments:** `change`: cuts the twin that runs, where `model` is the dense model still.

    **Raises:** `PodarError`: the model no longer runs, runs other operators, or some shape or constant is not as
    planned.
    """
    graph = expected.graph
    steps = _run(lambda: replay(model, example_inputs, graph.record, real, change))
    pairs = _side_by_side(graph.record.steps, steps)
    if pairs is None:
        before, after = _first_difference(graph.record.steps, steps)
        raise PodarError(f"after this cut the model runs {after} where it ran {before}; it is left as it was")
    training = graph.record.training
    if training is not None and training.broken is None:
        steps = _run(lambda: replay_training(model, example_inputs, graph.record, real, change), " in training")
        # Another order of operators is no fault there: blocks may be skipped by numbers that Python draws.
        pairs += _side_by_side(training.steps, steps) or []
    _compare(graph, expected.removed, pairs)


def _run(steps: Callable[[], list[Step]], where: str = "") -> list[Step]:
    try:
        return steps()
    except Exception as error:
        line = first_line(error)[:200]
        raise PodarError(
            f"after this cut the model no longer runs{where} ({type(error).__name__}: {line}); it is left as it was"
        ) from error


def _side_by_side(dense: Sequence[Step], pruned: Sequence[Step]) -> list[tuple[Step, Step]] | None:
    for leave_out in WITHOUT:
        pairs = _paired(dense, pruned, leave_out)
        if pairs is not None:
            return pairs
    return None


def _compare(graph: Graph, removed: NDArray[np.bool_], pairs: Sequence[tuple[Step, Step]]) -> None:
    """Every shape as it follows from the labels, every constant as it was."""
    alive = graph.solution.alive(removed)
    counts: dict[int, tuple[int, ...]] = {}
    for before, after in pairs:
        for shape, blocks, got in zip(before.shapes, before.blocks, after.shapes):
            wanted = list(shape)
            for dims, ids in blocks:
                key = id(ids)
                if key not in counts:
                    left = alive[ids]
                    counts[key] = tuple(_size(left, k) for k in range(ids.ndim))
                for d, n in zip(dims, counts[key]):
                    if d < len(wanted):
                        wanted[d] = n
            if tuple(wanted) != got:
                raise PodarError(
                    f"after this cut {_place(after)} gives shape {got} where {tuple(wanted)} was planned; "
                    "the model is left as it was"
                )
        if _differ(before.constants, after.constants):
            raise ChangedNumber(before)
        if len(before.contents) == len(after.contents) and _differ(before.contents, after.contents):
            raise ChangedNumber(before)  # another count: their shapes follow the cut


def _differ(before: Sequence[float], after: Sequence[float]) -> bool:
    if before == after:
        return False
    return len(before) != len(after) or any(abs(a - b) > 1e-6 * max(abs(a), abs(b)) for a, b in zip(before, after))


def _paired(
    dense: Sequence[Step], pruned: Sequence[Step], leave_out: frozenset[Compared]
) -> list[tuple[Step, Step]] | None:
    """Operators side by side without those in `leave_out`, or None where the two runs differ."""
    a, b = _without(dense, leave_out), _without(pruned, leave_out)
    same = len(a) == len(b) and all(_known_as(x) == _known_as(y) and x.module == y.module for x, y in zip(a, b))
    return list(zip(a, b)) if same else None


def _without(steps: Sequence[Step], leave_out: frozenset[Compared]) -> list[Step]:
    names = {name for name in {s.name for s in steps} if name in OPERATORS and OPERATORS[name].compared in leave_out}
    return [s for s in steps if s.name not in names]


def _known_as(step: Step) -> str:
    declared = OPERATORS.get(step.name)
    return step.name if declared is None else declared.like or step.name


def _first_difference(dense: Sequence[Step], pruned: Sequence[Step]) -> tuple[str, str]:
    a, b = _without(dense, WITHOUT[-1]), _without(pruned, WITHOUT[-1])
    for x, y in zip(a, b):
        if x.name != y.name or x.module != y.module:
            return _place(x), _place(y)
    return f"{len(a)} operators", f"{len(b)}"


def _place(step: Step) -> str:
    return f"{step.name} in {step.module}" if step.module else step.name


def _size(left: NDArray[np.bool_], axis: int) -> int:
    if left.ndim == 1:
        return int(np.count_nonzero(left))
    others = tuple(k for k in range(left.ndim) if k > axis)
    present = left.any(axis=others) if others else left
    return int(present.sum(axis=axis).max())
