"""The main verbs: score, plan, cut and check a model."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.compensation import Compensation, worth
from podar.compensation import compensate as solve_anew
from podar.compensation.inputs import Read, first_batches
from podar.criteria import Scorer, score
from podar.criteria.unit_sums import scored_units, unit_scores
from podar.errors import PodarError, UsageError
from podar.graph import Graph, trace
from podar.graph.clusters import Cluster
from podar.graph.freezing import Outputs
from podar.graph.residual_blocks import ResidualBlock
from podar.graph.slices import plan_for
from podar.graph.verification import ChangedNumber, Expectation
from podar.model.inputs import ExampleInputs
from podar.model.nested_traces import outside_of_other_traces
from podar.model.wrappers import prefix, reshaping
from podar.plans.plan import Plan
from podar.plans.surgery import Undo, fill, remember, reshape
from podar.pruning.allocation import allocate
from podar.pruning.carrying_out import carry_out, changing, changing_as_traced
from podar.pruning.depth import amounts_of, block_plan, candidates, choose_blocks, nothing_left
from podar.pruning.measured import met_when_measured, prepared, with_widths
from podar.pruning.measured_depth import Answers, by_error, fewest_missed, share_of
from podar.pruning.moves import Allocation
from podar.pruning.options import AUTO, RECONSTRUCTION, Options, takes_options
from podar.pruning.result import Result
from podar.pruning.target import Target, parse_targets

USUAL = "magnitude"
"""The criterion where none is asked for."""


@dataclass(frozen=True)
class Joints:
    """Where the library of a model has its own say in a cut. Left as they are, the cut is podar's own.

    **Attributes:**

    - `scores(scores)`: elementwise importance by parameter name, as units are to be judged by.
    - `errors(graph, errors)`: what the removal of each unit adds, as units are to be judged by, under "reconstruction".
    - `uneven(graph, allocation)`: fractions to keep of groups that must lose alike and would not, by name; empty where
      they do. The allocation is then made again with these as `ratios`.
    - `follows(model, plan)`: the plan with what else has to change.
    """

    scores: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda scores: scores
    errors: Callable[[Graph, NDArray[np.float64]], NDArray[np.float64]] = lambda graph, errors: errors
    uneven: Callable[[Graph, Allocation], Mapping[str, float]] = lambda graph, allocation: {}
    follows: Callable[[nn.Module, Plan], Plan] = lambda model, plan: plan


@takes_options
def plan(
    graph: Graph,
    target: str | Mapping[str, float | str] | None = None,
    *,
    model: nn.Module | None = None,
    scores: Mapping[str, Tensor] | None = None,
    scope: str | None = None,
    ratios: Mapping[str, float] | None = None,
    protect: str | Iterable[str] = (),
    only: str | Iterable[str] = (),
    multiple_of: int | str = AUTO,
    options: Options | None = None,
) -> Plan:
    """Decide which units go; nothing is changed yet.

    **Arguments:**

    - `graph`: from `podar.trace`.
    - `target`: what must remain: "macs=0.5", {"macs": 0.5}, "channels=0.5", "params=2M", "bytes=300k", "memory=300MB".
      May be left out where `ratios` are given.
    - `model`: weights for the default importance (squared magnitude), where not those of the traced model are meant.
    - `scores`: elementwise importance by parameter name, from `podar.criteria.score`; groups that they leave out are
      ranked by squared magnitude.
    - `scope`, `ratios`, `protect`, `only`, `multiple_of`: as of `podar.prune`.
    - `options`: the same as one object, `podar.pruning.Options`.

    **Returns:** The plan: `plan.save(path)`, `podar.apply(model, plan)`, `graph.cost(plan)`.

    **Raises:**

    - `UsageError`: a target, scope or pattern that makes no sense.
    - `PodarError`: the target cannot be reached (the message names the nearest value that can), nothing can be cut, or
      scores that do not fit the traced model.

    ```python
    graph = podar.trace(model, x)
    plan = podar.plan(graph, "macs=0.5")
    ```
    """
    options = options or Options()
    targets = () if target is None else parse_targets(target)
    targets = prepared(targets, graph.model, graph.example_inputs, graph, options)
    options = with_widths(options, targets)
    if options.depth:
        raise UsageError("a graph alone does not tell which blocks can be skipped: for depth=True call podar.prune")
    if options.importance == RECONSTRUCTION:
        raise UsageError("a graph alone cannot be run on inputs: for importance='reconstruction' call podar.prune")
    if scores is None and model is not None:
        scores = score(options.importance or USUAL, model, options.data, options.loss)
    unknown = next((name for name in scores or () if name not in graph.shapes), None)
    if unknown is not None:
        raise PodarError(f"the scores name {unknown!r}, which the traced model does not have")
    worths = unit_scores(graph, scores)
    while True:  # with fewer groups each time
        allocation = allocate(graph, targets, worths, options)
        used = changing_as_traced(graph, allocation.removed, allocation.clusters)
        if not used:
            return plan_for(graph, allocation.removed)
        graph = _whole(graph, used, "a size is used as a number where no trace can see it")


@takes_options
def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    target: str | Mapping[str, float | str] | None = None,
    importance: str | Scorer | None = None,
    scope: str | None = None,
    ratios: Mapping[str, float] | None = None,
    protect: str | Iterable[str] = (),
    only: str | Iterable[str] = (),
    multiple_of: int | str = AUTO,
    widths: int = 8,
    data: Any = None,
    loss: Any = None,
    outputs: Outputs = None,
    verify: bool = True,
    depth: bool = False,
    compensate: bool | None = None,
    runtime: str | None = None,
    threads: int = 1,
    table: str | os.PathLike[str] | None = None,
    options: Options | None = None,
) -> Result:
    """Make a model smaller, in place: trace, score, plan, cut, and check that what is left fits together.

    **Arguments:**

    - `model`: any module. DistributedDataParallel, DataParallel, torch.compile and moving averages around it are looked
      through, and go on working with what is left; under the first all processes cut alike.
    - `example_inputs`: a tensor, a tuple, a dict of keyword arguments, or a callable that takes the model (without its
      wrappers) and runs it.
    - `target`: what must remain: "macs=0.5", {"macs": 0.5}, "channels=0.5", "params=2M", "latency=8ms", an upper bound
      ("macs<=0.5"), or several, each of which is met: "macs<=0.5, params<=0.4", "latency=0.6, params<=0.7". May be left
      out where `ratios` are given: the rest then stays whole.
    - `importance`: None is "reconstruction" where `data` are given and "magnitude" (squared L2) elsewhere; or
      "magnitude-l1", "bn-scale", "taylor", "random", or a callable
      `score(model, data, loss) → {parameter name: elementwise tensor}`. Groups that it leaves out are ranked by squared
      magnitude.
    - `scope`: None is "global", which compares all groups; "local" cuts every group alike, "isomorphic" compares like
      with like, "error" (None under "reconstruction") takes scores for errors, and the least error per cost first.
    - `ratios`: {pattern: fraction kept} overrides per group, layer or parameter.
    - `protect`: patterns of modules or parameters that keep every slice; a string is one pattern.
    - `only`: patterns of the only modules or parameters that may be cut: all others keep every slice. A pattern of lone
      layers, which have no channels among themselves, lets the inputs of their readers follow.
    - `multiple_of`: widths are rounded to multiples of this. "auto": where the target is a cost (macs, params, bytes,
      memory) multiples of 8 where a layer has at least 16 units, of 4 below, which is what runtimes compute fastest;
      one layer after the other may have any width where the target cannot be met otherwise. Under "channels=…" and for
      `ratios` "auto" rounds nothing.
    - `widths`: the multiple that "auto" aims at, half of it below twice as many units: what the runtime at hand likes
      (`podar.formats.liked_widths(["onnx"])`).
    - `data`: inputs, as docs/data.md says: units then go by what their readers lose, and what stays is solved anew
      (docs/compensation.md). Batches of (inputs, targets) for criteria that need them.
    - `loss`: `loss(outputs, targets)` for those criteria.
    - `outputs`: paths of the outputs that must keep their shape, or a test of a path; None keeps all.
    - `verify`: trace the result and compare it with the plan; a plan that fails is undone and refused.
    - `depth`: whole residual blocks may go too, each weighed like one more unit (docs/depth.md).
    - `compensate`: whether the weights that stay are solved anew, from `data` without labels, so that the model gives
      what the dense one gave. None: where `data` are given. A copy of the model is held meanwhile.
    - `runtime`, `threads`: where the model will run, for targets of latency: "onnxruntime", "openvino" or "torch"
      (docs/latency.md). None: that of the table, else onnxruntime.
    - `table`: a file of measured layers, for targets of latency on another device (`podar profile`).
    - `options`: `podar.pruning.Options`, which has all these from `importance` on as its fields; what is given beside
      it is joined with it.

    **Returns:** Result: .model, .plan, .before, .after, .removed, .removed_mask(name), .latency; printed, a table.

    **Raises:**

    - `UsageError`: a target, scope, criterion or pattern that makes no sense.
    - `PodarError`: the model does not run on the inputs, weights are not finite, the target cannot be reached, nothing
      can be cut, or the result does not fit together. The model is left as it was.

    ```python
    model = torchvision.models.resnet18()
    result = podar.prune(model, torch.zeros(1, 3, 224, 224), "macs=0.5")
    result.after.macs / result.before.macs
    0.5
    ```
    """
    return prune_by(model, example_inputs, target, options or Options())


@outside_of_other_traces()
def prune_by(
    model: nn.Module,
    example_inputs: ExampleInputs,
    target: str | Mapping[str, float | str] | None,
    options: Options,
    *,
    joints: Joints = Joints(),  # frozen
    graph: Graph | None = None,
) -> Result:
    """`prune` for those that bring joints, or the graph of the model as it is now, which is then not traced again."""
    targets = () if target is None else parse_targets(target)
    if options.depth and not targets:
        raise UsageError("depth weighs whole blocks against channels for a target: give one, such as macs=0.5")
    with reshaping(model) as own:
        found = _pruned(own, example_inputs, targets, options, joints, graph)
    return replace(found, model=model, prefix=prefix(model))


def _pruned(
    model: nn.Module,
    example_inputs: ExampleInputs,
    targets: Sequence[Target],
    options: Options,
    joints: Joints,
    graph: Graph | None,
) -> Result:
    """The work of `prune`, on a model without wrappers."""
    inputs: Read | None = None
    if options.by_reconstruction or options.compensated:
        if isinstance(options.data, Iterator):  # it is read more than once
            options = replace(options, data=list(options.data))
        inputs = first_batches(options.data, model)
    graph = trace(model, example_inputs, outputs=options.outputs) if graph is None else graph
    targets = prepared(targets, model, example_inputs, graph, options)
    options = with_widths(options, targets)
    usual = USUAL if options.by_reconstruction else options.importance or USUAL
    scores, elementwise = scored_units(graph, usual, model, options.data, options.loss, joints.scores)
    if options.depth and elementwise is None:
        raise UsageError(f"importance {options.importance!r} scores units, not whole blocks: leave depth out")
    work = _Work(example_inputs, graph, targets, scores, elementwise, inputs, options, joints)
    del elementwise  # it may hold the weights that are about to go
    blocks = _blocks(model, work) if options.depth else []
    return _solved(model, work, blocks)


@dataclass
class _Work:
    """What a cut is made by, whichever blocks go."""

    example_inputs: ExampleInputs
    graph: Graph
    targets: Sequence[Target]
    scores: NDArray[np.float64]
    elementwise: Mapping[str, Tensor] | None
    inputs: Read | None
    options: Options
    joints: Joints


def _blocks(model: nn.Module, work: _Work) -> list[ResidualBlock]:
    """The residual blocks that go: by what the model's answers lose, where there are inputs; else by their weights."""
    graph, targets = work.graph, work.targets
    blocks = candidates(model, work.example_inputs, graph, work.options)
    if work.inputs is None or not blocks:
        assert work.elementwise is not None  # refused above
        return choose_blocks(blocks, graph, targets, work.elementwise, work.scores, work.options)
    answers = Answers(model, work.inputs)
    order = by_error(model, blocks, answers)
    if targets[0].metric.counts:
        return share_of(order, blocks, targets[0].value)

    def attempt(gone: Sequence[ResidualBlock]) -> float:
        twin = copy.deepcopy(model)
        _solved(twin, replace(work), gone)
        return answers.error(twin)

    return fewest_missed(graph, targets, order, attempt)


def _solved(model: nn.Module, work: _Work, blocks: Sequence[ResidualBlock]) -> Result:
    """Take these blocks and channels away, and solve what stays anew, where that is asked for."""
    dense = copy.deepcopy(model) if work.options.compensated else None
    if blocks:
        found, left = _without_blocks(model, work, blocks)
    else:
        work.elementwise = None
        scores, left, options = _weighed(work.graph, model, work.scores, work.inputs, work.options, work.joints)
        made, allocation, graph, measured = _cut(
            model, work.example_inputs, work.graph, work.targets, scores, options, work.joints
        )
        found = Result(model, made, graph, allocation, targets=tuple(work.targets), measured=measured)
    return found if dense is None else replace(found, compensation=_compensated(model, dense, work.inputs, left))


def _weighed(
    graph: Graph,
    model: nn.Module,
    scores: NDArray[np.float64],
    inputs: Read | None,
    options: Options,
    joints: Joints,
) -> tuple[NDArray[np.float64], Mapping[str, str], Options]:
    """What each unit is worth, the groups that have plain scores although errors were asked for, and who competes."""
    if not options.by_reconstruction:
        return scores, {}, options
    found = worth(graph, model, inputs, scores)
    return joints.errors(graph, found.errors), found.left, replace(options, scope=options.scope or "error")


def _compensated(model: nn.Module, dense: nn.Module, inputs: Read | None, left: Mapping[str, str]) -> Compensation:
    """Solve what stays anew; a model that cannot be is left as it was cut, which the result says."""
    try:
        return replace(solve_anew(model, dense, inputs), unmeasured=left)
    except PodarError as error:
        return Compensation((), left, str(error))


def _without_blocks(model: nn.Module, work: _Work, blocks: Sequence[ResidualBlock]) -> tuple[Result, Mapping[str, str]]:
    """Blocks go first, as a plan of its own; then channels of what is left, down to the same targets.

    **Returns:** The result, and the groups that have plain scores although errors were asked for.
    """
    graph, inputs, options = work.graph, work.example_inputs, work.options
    skipping = block_plan(blocks, graph)
    undo = Undo(model)
    try:
        fill(reshape(model, skipping, undo))
        remember(model, skipping)
        rest = trace(model, inputs, outputs=options.outputs)
        scores, left, options = _weighed(
            rest, model, unit_scores(rest, work.elementwise), work.inputs, options, work.joints
        )
        goals = amounts_of(work.targets, graph)
        made, allocation, rest, measured = _cut(model, inputs, rest, goals, scores, options, work.joints)
    except BaseException:
        undo.restore()
        raise
    names = tuple(block.name for block in blocks)
    found = Result(model, skipping + made, graph, allocation, names, rest, tuple(work.targets), measured=measured)
    return found, left


def _cut(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    targets: Sequence[Target],
    scores: NDArray[np.float64],
    options: Options,
    joints: Joints,
) -> tuple[Plan, Allocation, Graph, Mapping[str, Any]]:
    """Allocate, carry the plan out and check it. Groups whose width turns out to reach a value stay, and it is done
    again: a width can reach one by ways that a trace does not see (`math.log(x.shape[1])`, numpy).

    **Returns:** The plan, its allocation, the graph that they were made for, in which these groups are frozen, and what
    was measured for targets that are.
    """

    def candidate(graph: Graph, allocation: Allocation) -> nn.Module:
        smaller = copy.deepcopy(model)
        fill(reshape(smaller, joints.follows(model, plan_for(graph, allocation.removed)), Undo(smaller)))
        return smaller

    while True:  # with fewer groups each time
        allocation, measured = met_when_measured(
            graph,
            targets,
            lambda asked, graph=graph: _allocated(graph, asked, scores, options, joints),
            lambda allocation, graph=graph: candidate(graph, allocation),
        )
        made = joints.follows(model, plan_for(graph, allocation.removed))
        try:
            carry_out(model, made, Expectation(graph, allocation.removed) if options.verify else None, example_inputs)
            return made, allocation, graph, measured
        except ChangedNumber as change:
            used = changing(model, example_inputs, graph, allocation.removed, allocation.clusters)
            if not used:
                raise
            why = f"a size is used as a number at {change.where}"
        graph = _whole(graph, used, why)


def _whole(graph: Graph, clusters: Sequence[Cluster], why: str) -> Graph:
    """The graph with some clusters kept whole."""
    return graph.with_frozen({family: why for cluster in clusters for family in cluster.families})


def _allocated(
    graph: Graph, targets: Sequence[Target], scores: NDArray[np.float64], options: Options, joints: Joints
) -> Allocation:
    """How much of which group goes: nothing, where whole blocks alone have met the targets."""
    met = nothing_left(graph, targets) if targets and targets[0].dense is not None else None
    if met is not None:
        return met
    allocation = allocate(graph, targets, scores, options)
    uneven = joints.uneven(graph, allocation)
    if uneven:  # the targets were met in the middle of a pair
        return allocate(graph, targets, scores, replace(options, ratios={**(options.ratios or {}), **uneven}))
    return allocation
