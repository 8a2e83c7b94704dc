"""Meets what only training uses in a run in train mode, which adds to what evaluation showed."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import FrameType, TracebackType

from torch import Tensor

from podar.errors import first_line
from podar.graph.record import Record, Training
from podar.graph.tracing.dispatch import Dispatch
from podar.model.inputs import named_tensors

Broken = Callable[[Dispatch, Exception], None]
TrainingRun = Callable[[Callable[[], Record], bool, "Broken | None"], Record]
"""A run in train mode: what makes its record, whether operators are computed, what is told of an exception."""


def with_training(record: Record, run: TrainingRun) -> Record:
    """The record joined to one of a run in train mode, for real where that looks at values.

    Where the run comes to no end (the model wants targets, say), everything that it met first, or held when it ended,
    stays as it is: what else reads it was not seen.
    """

    def start() -> Record:
        fork = record.forked()
        fork.steps, fork.products, fork.decisions = [], [], []
        return fork

    try:
        return _joined(record, run(start, False, None), real=False)
    except Exception:
        pass
    reasons: list[str] = []

    def stop(run: Dispatch, error: Exception) -> None:
        kind = type(error).__name__
        reasons.append(f"{kind}: {first_line(error)[:120]}" if str(error).strip() else kind)
        _freeze_open_ends(run, record, error, reasons[0])

    return _joined(record, run(start, True, stop), real=True, broken=next(iter(reasons), None))


def _joined(evaluation: Record, trained: Record, real: bool, broken: str | None = None) -> Record:
    """One record with the relations and outputs of both runs, and the operators and costs of evaluation."""
    trained.training = Training(trained.steps, trained.decisions, real, broken)
    trained.steps, trained.products, trained.decisions = evaluation.steps, evaluation.products, evaluation.decisions
    trained.outputs = evaluation.outputs + ([] if broken else trained.outputs)
    return trained


def _freeze_open_ends(run: Dispatch, before: Record, error: Exception, reason: str) -> None:
    """Freeze parameters that only the broken run met, and all that it still held."""
    labels, layouts = run.record.labels, run.record.layouts
    why = f"the run in train mode, which alone uses it, broke off ({reason})"
    for name in layouts.keys() - before.layouts.keys():
        for ids in layouts[name].values():
            labels.freeze(ids, why)
    why = f"the run in train mode broke off before all that reads it was seen ({reason})"
    for tensor in _held(error.__traceback__):
        known = run.marks.known(tensor)
        if known is not None and id(tensor) not in run.marks.named:
            for _, ids in known.blocks:
                labels.freeze(ids, why)


def _held(traceback: TracebackType | None) -> Iterator[Tensor]:
    """The tensors in the local variables of every function that the exception passed, and in what these lead to."""
    while traceback is not None:
        yield from _locals(traceback.tb_frame)
        traceback = traceback.tb_next


def _locals(frame: FrameType) -> Iterator[Tensor]:
    for value in list(frame.f_locals.values()):
        for _, tensor in named_tensors(value):
            yield tensor
        if hasattr(value, "__dict__") and not isinstance(value, (Tensor, type)):
            for inner in list(vars(value).values()):
                for _, tensor in named_tensors(inner):
                    yield tensor
