"""The main verbs: score, plan, cut and check a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from podar.criteria import Scorer, score
from podar.criteria.unit_sums import unit_scores
from podar.errors import PodarError, UsageError
from podar.graph import Graph
from podar.graph.freezing import Outputs
from podar.graph.slices import plan_for
from podar.model.inputs import ExampleInputs
from podar.model.nested_traces import outside_of_other_traces
from podar.model.wrappers import prefix, reshaping
from podar.plans.plan import Plan
from podar.pruning.allocation import allocate
from podar.pruning.carrying_out import changing_as_traced, kept_whole
from podar.pruning.measured import prepared, with_widths
from podar.pruning.options import AUTO, RECONSTRUCTION, Options, takes_options
from podar.pruning.removal import chosen_blocks, cut_down
from podar.pruning.result import Result
from podar.pruning.target import parse_targets
from podar.pruning.work import NO_JOINTS, USUAL, Joints, traced_and_scored


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
        graph = kept_whole(graph, used, "a size is used as a number where no trace can see it")


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
    joints: Joints = NO_JOINTS,
    graph: Graph | None = None,
) -> Result:
    """`prune` for libraries: with their joints, or with the graph of the model as it is now, so that it is not traced.

    **Arguments:**

    - `model`, `example_inputs`, `target`, `options`: as of `prune`.
    - `joints`: where the library of the model has its own say.
    - `graph`: the trace of the model as it is now; None: it is traced here.

    **Returns:** As `prune`.

    **Raises:** As `prune`.
    """
    targets = () if target is None else parse_targets(target)
    if options.depth and not targets:
        raise UsageError("depth weighs whole blocks against channels for a target: give one, such as macs=0.5")
    before = prefix(model)
    with reshaping(model) as own:
        work = traced_and_scored(own, example_inputs, targets, options, joints, graph)
        blocks = chosen_blocks(own, work) if options.depth else ()
        found = cut_down(own, work, blocks)
    return replace(found, model=model, prefix=before)
