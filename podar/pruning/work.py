"""What a cut is made by: the trace of the model, the targets, what each unit is worth, and the options."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.compensation.inputs import Read, first_batches
from podar.criteria.unit_sums import scored_units
from podar.errors import UsageError
from podar.graph import Graph, trace
from podar.model.inputs import ExampleInputs
from podar.plans.plan import Plan
from podar.pruning.measured import prepared, with_widths
from podar.pruning.moves import Allocation
from podar.pruning.options import Options
from podar.pruning.target import Target

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


NO_JOINTS = Joints()
"""No library has a say: the cut is podar's own."""


@dataclass(frozen=True)
class Work:
    """What a cut is made by. Each step of `podar.prune` reads it, and hands it on with what the step has found out.

    **Attributes:**

    - `example_inputs`: what the model runs on when it is traced and verified.
    - `graph`: the trace of the model as it is now.
    - `targets`: what must remain, with the tables that their metrics need.
    - `scores`: what each unit of the graph is worth.
    - `elementwise`: what each weight is worth, where whole blocks may go and the criterion scores weights; else None.
    - `inputs`: the batches that units are judged on, and that what stays is solved anew from; None where neither is.
    - `options`, `joints`: as of `podar.pruning.pipeline.prune_by`.
    - `left`: the groups that have plain scores although errors were asked for, each with the reason.
    """

    example_inputs: ExampleInputs
    graph: Graph
    targets: Sequence[Target]
    scores: NDArray[np.float64]
    elementwise: Mapping[str, Tensor] | None
    inputs: Read | None
    options: Options
    joints: Joints
    left: Mapping[str, str] = field(default_factory=dict)


def traced_and_scored(
    model: nn.Module,
    example_inputs: ExampleInputs,
    targets: Sequence[Target],
    options: Options,
    joints: Joints,
    graph: Graph | None,
) -> Work:
    """Trace a model without wrappers, and score its units by the criterion; errors are measured later, when it is cut.

    **Raises:**

    - `UsageError`: whole blocks may go, and the criterion scores no single weights.
    - `PodarError`: as `podar.trace` and the criterion.
    """
    inputs: Read | None = None
    if options.by_reconstruction or options.compensated:
        if isinstance(options.data, Iterator):  # it is read more than once
            options = replace(options, data=list(options.data))
        inputs = first_batches(options.data, model)
    graph = trace(model, example_inputs, outputs=options.outputs) if graph is None else graph
    targets = prepared(targets, model, example_inputs, graph, options)
    options = with_widths(options, targets)
    criterion = USUAL if options.by_reconstruction else options.importance or USUAL
    scores, elementwise = scored_units(graph, criterion, model, options.data, options.loss, joints.scores)
    if options.depth and elementwise is None:
        raise UsageError(f"importance {options.importance!r} scores units, not whole blocks: leave depth out")
    kept = elementwise if options.depth else None  # it may hold the weights that are about to go
    return Work(example_inputs, graph, targets, scores, kept, inputs, options, joints)
