"""Takes blocks and units out of a model, so that the targets are met, and solves what stays anew."""

from __future__ import annotations

import copy
from collections.abc import Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial

from torch import nn

from podar.compensation import Compensation, compensate, worth
from podar.criteria.unit_sums import unit_scores
from podar.errors import PodarError
from podar.graph import trace
from podar.graph.residual_blocks import ResidualBlock
from podar.graph.slices import plan_for
from podar.graph.verification import ChangedNumber, Expectation
from podar.plans.plan import Plan
from podar.plans.surgery import Undo, fill, reshape
from podar.pruning.allocation import allocate
from podar.pruning.carrying_out import carry_out, changing, kept_whole
from podar.pruning.depth import amounts_of, block_plan, candidates, choose_blocks, nothing_left
from podar.pruning.measured import met_when_measured
from podar.pruning.measured_depth import Answers, by_error, fewest_missed, share_of
from podar.pruning.moves import Allocation
from podar.pruning.result import Result
from podar.pruning.target import Target
from podar.pruning.work import Work


def chosen_blocks(model: nn.Module, work: Work) -> Sequence[ResidualBlock]:
    """The residual blocks that go: by what the model's answers lose, where there are inputs; else by their weights."""
    blocks = candidates(model, work.example_inputs, work.graph, work.options)
    if work.inputs is None or not blocks:
        assert work.elementwise is not None  # refused when the units were scored
        return choose_blocks(blocks, work.graph, work.targets, work.elementwise, work.scores, work.options)
    answers = Answers(model, work.inputs)
    order = by_error(model, blocks, answers)
    if work.targets[0].metric.counts:
        return share_of(order, blocks, work.targets[0].value)

    def attempt(gone: Sequence[ResidualBlock]) -> float:
        twin = copy.deepcopy(model)
        cut_down(twin, work, gone, refine=False)  # it takes longest, and tells the numbers of blocks apart no better
        return answers.error(twin)

    return fewest_missed(work.graph, work.targets, order, attempt)


def cut_down(model: nn.Module, work: Work, blocks: Sequence[ResidualBlock], *, refine: bool = True) -> Result:
    """Take these blocks out, then units of what is left, and solve what stays anew where that is asked for.

    **Raises:** `PodarError`: the target cannot be reached, nothing can be cut, or the result does not fit together. The
    model is left as it was.
    """
    dense = copy.deepcopy(model) if work.options.compensated else None
    with _without_blocks(model, work, blocks) if blocks else nullcontext(work) as rest:
        rest = _weighed(model, rest)
        found = _without_units(model, rest)
    if blocks:
        found = replace(
            found,
            plan=block_plan(blocks, work.graph) + found.plan,
            graph=work.graph,
            rest=found.graph,
            blocks=tuple(block.name for block in blocks),
            targets=tuple(work.targets),
        )
    return found if dense is None else replace(found, compensation=_compensated(model, dense, rest, refine))


@contextmanager
def _without_blocks(model: nn.Module, work: Work, blocks: Sequence[ResidualBlock]) -> Generator[Work]:
    """Take these blocks out, and put them back if what follows fails. Yields the work for what is left of the model."""
    undo = Undo(model)
    try:
        fill(reshape(model, block_plan(blocks, work.graph), undo))
        graph = trace(model, work.example_inputs, outputs=work.options.outputs)
        scores = unit_scores(graph, work.elementwise)
        yield replace(work, graph=graph, scores=scores, targets=amounts_of(work.targets, work.graph))
    except BaseException:
        undo.restore()
        raise


def _weighed(model: nn.Module, work: Work) -> Work:
    """The work with measured errors in place of plain scores, where units are judged by what their readers lose."""
    if not work.options.by_reconstruction:
        return work
    found = worth(work.graph, model, work.inputs, work.scores)
    return replace(
        work,
        scores=work.joints.errors(work.graph, found.errors),
        left=found.left,
        options=replace(work.options, scope=work.options.scope or "error"),
    )


def _without_units(model: nn.Module, work: Work) -> Result:
    """Allocate, plan, cut and verify. Groups whose width turns out to reach a value stay, and it is done again.

    A width can reach a value by ways that a trace does not see (`math.log(x.shape[1])`, numpy).
    """
    while True:  # with fewer groups each time
        allocation, measured = met_when_measured(
            work.graph, work.targets, partial(_allocated, work), partial(_smaller_copy, model, work)
        )
        plan = _planned(model, work, allocation)
        expected = Expectation(work.graph, allocation.removed) if work.options.verify else None
        try:
            carry_out(model, plan, expected, work.example_inputs)
            return Result(model, plan, work.graph, allocation, targets=tuple(work.targets), measured=measured)
        except ChangedNumber as change:
            used = changing(model, work.example_inputs, work.graph, allocation.removed, allocation.clusters)
            if not used:
                raise
            why = f"a size is used as a number at {change.where}"
        work = replace(work, graph=kept_whole(work.graph, used, why))


def _allocated(work: Work, targets: Sequence[Target]) -> Allocation:
    """How much of which group goes: nothing, where whole blocks alone have met the targets."""
    met = nothing_left(work.graph, targets) if targets and targets[0].dense is not None else None
    if met is not None:
        return met
    allocation = allocate(work.graph, targets, work.scores, work.options)
    uneven = work.joints.uneven(work.graph, allocation)
    if not uneven:
        return allocation
    ratios = {**(work.options.ratios or {}), **uneven}  # the cut ended between two groups that must lose alike
    return allocate(work.graph, targets, work.scores, replace(work.options, ratios=ratios))


def _planned(model: nn.Module, work: Work, allocation: Allocation) -> Plan:
    """The plan that removes what the allocation says, and changes what follows."""
    return work.joints.follows(model, plan_for(work.graph, allocation.removed))


def _smaller_copy(model: nn.Module, work: Work, allocation: Allocation) -> nn.Module:
    """A copy of the model that the allocation is carried out on, to be measured."""
    smaller = copy.deepcopy(model)
    fill(reshape(smaller, _planned(model, work, allocation), Undo(smaller)))
    return smaller


def _compensated(model: nn.Module, dense: nn.Module, work: Work, refine: bool) -> Compensation:
    """Solve what stays anew. A model that cannot be solved is left as it was cut, and the result says why."""
    try:
        return replace(compensate(model, dense, work.inputs, refine=refine), unmeasured=work.left)
    except PodarError as error:
        return Compensation((), work.left, str(error))
