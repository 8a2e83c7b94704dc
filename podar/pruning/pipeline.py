"""The main verbs: score, plan, cut and check a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.criteria import Scorer, score
from podar.criteria.unit_sums import unit_scores
from podar.errors import PodarError, UsageError
from podar.graph import Graph, trace
from podar.graph.clusters import Cluster
from podar.graph.cost import Cost
from podar.graph.freezing import Outputs
from podar.graph.residual_blocks import Block
from podar.graph.slices import plan_for
from podar.graph.verification import ChangedNumber, Expectation, verify_trace
from podar.model.inputs import ExampleInputs
from podar.model.nested_traces import outside_of_other_traces
from podar.model.wrappers import prefix, reshaping
from podar.plans.plan import Plan
from podar.plans.surgery import Pending, Undo, fill, remember, removed_mask, reshape
from podar.pruning.allocation import Target, allocate, parse_target
from podar.pruning.depth import block_plan, choose_blocks, nothing_left, share_of_target
from podar.pruning.moves import Allocation
from podar.pruning.options import AUTO, Options, takes_options

USUAL = "magnitude"
"""The criterion where none is asked for."""


@dataclass(frozen=True, repr=False)
class Result:
    """What `podar.prune` did: print it for a table. Costs and removed indices are worked out when first asked for.

    **Attributes:**

    - `model`: the pruned model: the object that was passed in, wrappers and all.
    - `plan`: what was removed.
    - `graph`: the trace of the model as it was passed in.
    - `allocation`: what is left of each family of units.
    - `blocks`: names of the residual blocks that went as a whole (`depth=True`).
    - `rest`: the trace without those blocks, which the allocation is for; None where none went.
    - `prefix`: what wrappers put before the names of the model inside, as "module."; plan and graph have bare names.
    """

    model: nn.Module
    plan: Plan
    graph: Graph
    allocation: Allocation
    blocks: tuple[str, ...] = ()
    rest: Graph | None = None
    prefix: str = ""

    @cached_property
    def before(self) -> Cost:
        """Cost of the model as it was passed in."""
        return self.graph.cost()

    @cached_property
    def after(self) -> Cost:
        """Cost of the pruned model."""
        return (self.rest or self.graph).costs.cost(self.allocation.share)

    @cached_property
    def removed(self) -> dict[str, dict[int, Tensor]]:
        """For each tensor (under every tied name) and dimension the indices that went, as the model was passed in.

        Where groups of a convolution lose different inputs, `removed_mask` has the full story.
        """
        found = {
            name: {cut.dim: torch.tensor(cut.array) for cut in cuts if cut.groups == 1}
            for name, cuts in self.plan.cuts.items()
        } | {name: {0: torch.arange(shape[0] if shape else 1)} for name, shape in self.plan.dropped().items()}
        return {self.prefix + name: gone for name, gone in found.items()}

    def removed_mask(self, name: str) -> Tensor:
        """BoolTensor of the dense shape of a parameter or buffer: True where an element was removed.

        **Raises:** `PodarError`: the model as passed in had no tensor of that name.
        """
        name = name.removeprefix(self.prefix)
        if name not in self.graph.shapes:
            raise PodarError(f"the model has no parameter or buffer named {name!r}")
        if name in self.plan.dropped():
            return torch.ones(self.graph.shapes[name], dtype=torch.bool)
        return removed_mask(self.graph.shapes[name], self.plan.cuts.get(name, ()))

    def __str__(self) -> str:
        """Costs before and after, and what was cut, as a table."""
        before, after = self.before.to_json(), self.after.to_json()
        rows = [("", "before", "after", "kept")]
        rows += [(name, f"{was:,}", f"{now:,}", _share(now, was)) for name, was, now in _named(before, after)]
        widths = [max(len(row[k]) for row in rows) for k in range(4)]
        lines = [
            "  ".join([f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:], widths[1:]))])
            for row in rows
        ]
        graph = self.rest or self.graph
        cut = sum(bool((self.allocation.share[list(g.families)] < 1).any()) for g in graph.groups)
        lines.append(f"{cut} of {len(graph.groups)} groups cut, {len(graph.frozen)} axes frozen")
        if self.blocks:
            lines.append(f"whole blocks that went: {', '.join(self.blocks)}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        before, after = self.before, self.after
        return (
            f"Result({type(self.model).__name__}: parameters {before.params:,} → {after.params:,}, "
            f"MACs {before.macs:,} → {after.macs:,})"
        )


def _named(before: Mapping[str, int], after: Mapping[str, int]) -> list[tuple[str, int, int]]:
    """Costs as users call them, before and after."""
    titles = {"params": "parameters", "macs": "MACs", "bytes": "bytes", "memory_bytes": "bytes of activations"}
    return [(title, before[key], after[key]) for key, title in titles.items()]


def _share(now: int, was: int) -> str:
    return f"{100 * now / was:.1f} %" if was else "–"


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
    parsed = None if target is None else parse_target(target)
    if options.depth:
        raise UsageError("a graph alone does not tell which blocks can be skipped: for depth=True call podar.prune")
    if scores is None and model is not None:
        scores = score(options.importance or USUAL, model, options.data, options.loss)
    unknown = next((name for name in scores or () if name not in graph.shapes), None)
    if unknown is not None:
        raise PodarError(f"the scores name {unknown!r}, which the traced model does not have")
    allocation = allocate(graph, parsed, unit_scores(graph, scores), options)
    return plan_for(graph, allocation.removed)


@takes_options
@outside_of_other_traces()
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
    data: Any = None,
    loss: Any = None,
    outputs: Outputs = None,
    verify: bool = True,
    depth: bool = False,
    options: Options | None = None,
) -> Result:
    """Make a model smaller, in place: trace, score, plan, cut, and check that what is left fits together.

    **Arguments:**

    - `model`: any module. DistributedDataParallel, DataParallel, torch.compile and moving averages around it are looked
      through, and go on working with what is left; under the first all processes cut alike.
    - `example_inputs`: a tensor, a tuple, a dict of keyword arguments, or a callable that takes the model (without its
      wrappers) and runs it.
    - `target`: what must remain: "macs=0.5", {"macs": 0.5}, "channels=0.5", "params=2M". May be left out where `ratios`
      are given: the rest of the model then stays whole.
    - `importance`: None is "magnitude" (squared L2), "magnitude-l1", "bn-scale", "taylor", "random", or a callable
      `score(model, data, loss) → {parameter name: elementwise tensor}`. Groups that it leaves out are ranked by squared
      magnitude.
    - `scope`: None is "global", which compares all groups; "local" cuts every group alike, "isomorphic" compares like
      with like.
    - `ratios`: {pattern: fraction kept} overrides per group, layer or parameter.
    - `protect`: patterns of modules or parameters that keep every slice; a string is one pattern.
    - `only`: patterns of the only modules or parameters that may be cut: all others keep every slice. A pattern of lone
      layers, which have no channels among themselves, lets the inputs of their readers follow.
    - `multiple_of`: widths are rounded to multiples of this. "auto": where the target is a cost (macs, params, bytes,
      memory) multiples of 8 where a layer has at least 16 units, of 4 below, which is what runtimes compute fastest;
      one layer after the other may have any width where the target cannot be met otherwise. Under "channels=…" and for
      `ratios` "auto" rounds nothing.
    - `data`: batches of (inputs, targets) for importance criteria that need them.
    - `loss`: `loss(outputs, targets)` for those criteria.
    - `outputs`: paths of the outputs that must keep their shape, or a test of a path; None keeps all.
    - `verify`: trace the result and compare it with the plan; a plan that fails is undone and refused.
    - `depth`: whole residual blocks may go too, each weighed like one more unit (docs/depth.md).
    - `options`: `podar.pruning.Options`, which has all these from `importance` on as its fields; what is given beside
      it is joined with it.

    **Returns:** Result: .model, .plan, .before, .after, .removed, .removed_mask(name); `print(result)` shows a table.

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


@dataclass(frozen=True)
class Joints:
    """Where the models of a library need something of their own on the way from a model to its cut.

    - `scores(scores)`: elementwise importance, as units are to be judged by.
    - `uneven(graph, allocation)`: fractions to keep of groups that must lose alike and would not; empty where they do.
    - `follows(model, plan)`: the plan with what else has to change.
    """

    scores: Callable[[Mapping[str, Tensor]], Mapping[str, Tensor]] = lambda scores: scores
    uneven: Callable[[Graph, Allocation], Mapping[str, float]] = lambda graph, allocation: {}
    follows: Callable[[nn.Module, Plan], Plan] = lambda model, plan: plan


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
    parsed = None if target is None else parse_target(target)
    if options.depth and parsed is None:
        raise UsageError("depth weighs whole blocks against channels for a target: give one, such as macs=0.5")
    with reshaping(model) as own:
        found = _pruned(own, example_inputs, parsed, options, joints, graph)
    return replace(found, model=model, prefix=prefix(model))


def _pruned(
    model: nn.Module,
    example_inputs: ExampleInputs,
    target: Target | None,
    options: Options,
    joints: Joints,
    graph: Graph | None,
) -> Result:
    """The work of `prune`, on a model without wrappers."""
    graph = trace(model, example_inputs, outputs=options.outputs) if graph is None else graph
    elementwise = joints.scores(score(options.importance or USUAL, model, options.data, options.loss))
    scores = unit_scores(graph, elementwise)
    if options.depth and target is not None:
        blocks = choose_blocks(model, example_inputs, graph, target, elementwise, scores, options)
        if blocks:
            return _with_depth(model, example_inputs, graph, blocks, target, elementwise, options)
    del elementwise  # it may hold the weights that are about to go

    def planned(graph: Graph) -> tuple[Plan, Allocation]:
        allocation = allocate(graph, target, scores, options)
        uneven = joints.uneven(graph, allocation)
        if uneven:
            even = replace(options, ratios={**(options.ratios or {}), **uneven})
            allocation = allocate(graph, target, scores, even)
        return joints.follows(model, plan_for(graph, allocation.removed)), allocation

    made, allocation, graph = cut(model, example_inputs, graph, planned, options.verify)
    return Result(model, made, graph, allocation)


def _with_depth(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    blocks: list[Block],
    target: Target,
    elementwise: Mapping[str, Tensor],
    options: Options,
) -> Result:
    """Blocks first, as a plan of its own; then channels of what is left, down to the same target."""
    skipping = block_plan(blocks, graph)
    undo = Undo(model)
    try:
        fill(reshape(model, skipping, undo))
        remember(model, skipping)
        rest = trace(model, example_inputs, outputs=options.outputs)
        goal = share_of_target(target, graph)
        scores = unit_scores(rest, elementwise)

        def planned(rest: Graph) -> tuple[Plan, Allocation]:
            allocation = nothing_left(rest, goal)
            if allocation is None:
                allocation = allocate(rest, goal, scores, options)
            return plan_for(rest, allocation.removed), allocation

        made, allocation, rest = cut(model, example_inputs, rest, planned, options.verify)
    except BaseException:
        undo.restore()
        raise
    return Result(model, skipping + made, graph, allocation, tuple(b.name for b in blocks), rest)


def cut(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    planned: Callable[[Graph], tuple[Plan, Allocation]],
    verify: bool = True,
) -> tuple[Plan, Allocation, Graph]:
    """Carry out what `planned` makes of the graph. Groups whose width turns out to reach a value stay, and it is asked
    again: a width can reach one by ways that a trace does not see (`math.log(x.shape[1])`, numpy).

    **Returns:** The plan, its allocation, and the graph that they were made for, in which these groups are frozen.
    """
    made, allocation = planned(graph)
    try:
        carry_out(model, made, Expectation(graph, allocation.removed) if verify else None, example_inputs)
        return made, allocation, graph
    except ChangedNumber as change:
        used = _changing(model, example_inputs, graph, allocation.removed, allocation.clusters)
        if not used:
            raise
        why = f"a size is used as a number at {change.where}"
    fewer = graph.with_frozen({f: why for c in used for f in c.families})
    return cut(model, example_inputs, fewer, planned, verify)  # with fewer groups each time


def _changing(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    removed: NDArray[np.bool_],
    clusters: Sequence[Cluster],
) -> Sequence[Cluster]:
    """Those of the clusters that change a number which the model computes with, found by halves."""
    own = np.zeros_like(removed)
    for family in (f for c in clusters for f in c.families):
        own[graph.families[family].units] = True
    own &= removed
    if not own.any() or not _changes(model, example_inputs, graph, own):
        return []
    if len(clusters) == 1:
        return clusters
    half = len(clusters) // 2
    parts = (clusters[:half], clusters[half:])
    return [c for part in parts for c in _changing(model, example_inputs, graph, removed, part)] or clusters


def _changes(model: nn.Module, example_inputs: ExampleInputs, graph: Graph, removed: NDArray[np.bool_]) -> bool:
    undo = Undo(model)
    try:
        pending = reshape(model, plan_for(graph, removed), undo)
        _verify(model, example_inputs, Expectation(graph, removed), pending)
    except ChangedNumber:
        return True
    except PodarError:  # what fails for another reason tells nothing of numbers
        return False
    finally:
        undo.restore()
    return False


def carry_out(model: nn.Module, made: Plan, expected: Expectation | None, example_inputs: ExampleInputs) -> None:
    """Apply one plan, and undo it when the result does not run as expected."""
    undo = Undo(model)
    try:
        pending = reshape(model, made, undo)
        if expected is not None:
            _verify(model, example_inputs, expected, pending)
        remember(model, made)
        fill(pending, 1)
    except BaseException:
        undo.restore()
        raise
    del undo  # nothing can be refused any more: dense weights go one by one as they are cut
    fill(pending)


def _verify(model: nn.Module, example_inputs: ExampleInputs, expected: Expectation, pending: Pending) -> None:
    """Without values where none are needed; what fails so is looked at again with them: memory may hold anything."""
    try:
        verify_trace(model, example_inputs, expected)
        return
    except ChangedNumber:
        raise  # whatever memory holds
    except PodarError:
        pass
    fill(pending)
    verify_trace(model, example_inputs, expected, real=True)
