"""Prunes a YOLO: what its outputs must keep, both of its heads in step, costs before and after `fuse()`."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.errors import UsageError
from podar.graph import Graph, trace
from podar.graph.cost import Cost
from podar.libraries.ultralytics.samples import IMPORTANCE, Samples, task_loss
from podar.libraries.ultralytics.sealing import seal
from podar.model.inputs import ExampleInputs
from podar.model.patterns import patterns
from podar.plans.plan import Plan
from podar.pruning.moves import Allocation
from podar.pruning.options import RECONSTRUCTION, Options, gathered
from podar.pruning.pipeline import prune_by
from podar.pruning.result import Result
from podar.pruning.work import Joints

# RT-DETR's training looks the classes of labels up in this table; a trace, which has no labels, does not see it.
LOOKED_UP = "denoising_class_embed"
ONE_TO_ONE = "one2one_"  # cv2, cv3 … stand for the one-to-many head, one2one_cv2, one2one_cv3 … for the other


def prune(
    model: nn.Module,
    example_inputs: ExampleInputs,
    target: str | Mapping[str, float | str] | None = None,
    *,
    options: Options | None = None,
    graph: Graph | None = None,
    **fields: Any,
) -> Result:
    """`podar.prune` for a model of Ultralytics, in place: same options, result and errors, with six differences.

    - `data` may be an Ultralytics data.yaml (for classify a folder): up to 128 of its training images, at the size of
      the example inputs, with the task's own loss. `importance` None is then "taylor", without data "magnitude".
    - Class counts and box formats stay; the neck's features, which the model also returns, do not hold their widths
      unless `outputs` names them.
    - The one-to-many and the one-to-one head lose the same channels, so that the saving does not lie in the head that
      `fuse()` drops anyway. A unit is worth the mean of what it is worth in both.
    - The configuration is sealed: see `podar.libraries.ultralytics.sealing`.
    - Compensation is asked for: `compensate=True`, or `importance="reconstruction"`, which brings it. Pictures are
      taken as Ultralytics letterboxes them; both heads are solved, from the features that they share.
    - `depth=True` raises UsageError: plain Ultralytics could not load a model that lacks blocks.

    **Arguments:** `graph`: what `trace_model` found in the model as it is now; None: it is traced here.

    ```python
    model = YOLO("yolo26n.pt").model
    result = prune(model, torch.zeros(1, 3, 320, 320), "macs=0.6", data="data.yaml")
    ```
    """
    options = gathered(options, fields)
    if options.depth:
        raise UsageError(
            "depth (whole blocks) cannot go from a YOLO: plain Ultralytics, which has no module for a missing block, "
            "could not load the result; leave --depth out"
        )
    forget_sizes(model)
    settled = _settled(model, example_inputs, options)
    graph = graph if options.outputs is None else None  # it holds other outputs than were asked for
    result = prune_by(model, example_inputs, target, settled, joints=JOINTS, graph=graph)
    seal(model)
    return result


def _settled(model: nn.Module, example_inputs: ExampleInputs, options: Options) -> Options:
    """The options with what goes without saying for a model of Ultralytics: samples, outputs, a table that stays."""
    data, loss = options.data, options.loss
    if isinstance(data, (str, Path)):
        if not isinstance(example_inputs, Tensor):
            raise UsageError(f"data={str(data)!r} is read at the size of example_inputs: give them as one tensor.")
        data, loss = Samples(model, str(Path(data).resolve()), int(example_inputs.shape[-1])), loss or task_loss(model)
    looked_up = any(name.endswith(LOOKED_UP) for name, _ in model.named_modules())
    return replace(
        options,
        data=data,
        loss=loss,
        compensate=options.importance == RECONSTRUCTION if options.compensate is None else options.compensate,
        importance=options.importance or (IMPORTANCE if data is not None else "magnitude"),
        outputs=is_answer if options.outputs is None else options.outputs,
        protect=(*patterns(options.protect), *([f"*{LOOKED_UP}*"] if looked_up else [])),
    )


def forget_sizes(model: nn.Module) -> None:
    """Drop what heads remember of the last image: it holds the neck's width, which is about to change."""
    for module in model.modules():
        if "shape" in module.__dict__ and hasattr(module, "anchors"):
            del module.shape  # the class's own None shows again


def trace_model(model: nn.Module, example_inputs: ExampleInputs) -> Graph:
    """`podar.trace`; of the outputs only those hold their widths that users and losses read."""
    return trace(model, example_inputs, outputs=is_answer)


def is_answer(path: str) -> bool:
    """Whether users and losses read an output: all but the neck's features."""
    return "feats" not in path.split(".")


def in_step(scores: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Give both heads the mean of their scores, wherever their parameters have the same shape."""
    shared = dict(scores)
    for name, values in scores.items():
        twin = name.replace(ONE_TO_ONE, "")
        if twin != name and twin in shared and shared[twin].shape == values.shape:
            shared[name] = shared[twin] = (values + shared[twin]) / 2
    return shared


def errors_in_step(graph: Graph, errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Give units of both heads that stand for one another the mean of what their removals add."""
    shared, groups = errors.copy(), {group.name: group for group in graph.groups}
    for name, group in groups.items():
        twin = groups.get(name.replace(ONE_TO_ONE, ""))
        if twin is None or twin is group:
            continue
        for one, other in zip(group.families, twin.families):
            own, others = graph.families[one].units, graph.families[other].units
            if len(own) == len(others):
                shared[own] = shared[others] = (errors[own] + errors[others]) / 2
    return shared


def fused_cost(model: nn.Module, example_inputs: ExampleInputs) -> Cost:
    """Cost of what is deployed: batch norms folded away and, where there are two heads, one of them dropped."""
    fused: Any = copy.deepcopy(model).eval()
    return trace(fused.fuse(verbose=False), example_inputs).cost()


def _with_halves(model: nn.Module, plan: Plan) -> Plan:
    """Let the stored half width of C2f and its kin follow: forward halves whatever arrives, only exports read it."""
    attributes = {module: dict(values) for module, values in plan.attributes.items()}
    for name, module in model.named_modules():
        removed = sum(len(cut.removed) for cut in plan.cuts.get(f"{name}.cv1.conv.weight", ()) if cut.dim == 0)
        if hasattr(module, "forward_split") and removed:
            attributes.setdefault(name, {})["c"] = int(module.c) - removed // 2  # type: ignore[arg-type]
    return replace(plan, attributes=attributes)


def _uneven(graph: Graph, allocation: Allocation) -> dict[str, float]:
    """For pairs of groups that would lose different numbers: the lesser fraction kept, for both."""
    kept = {group.name: float(allocation.share[list(group.families)].mean()) for group in graph.groups}
    found: dict[str, float] = {}
    for name, fraction in kept.items():
        twin = name.replace(ONE_TO_ONE, "")
        if twin != name and twin in kept and kept[twin] != fraction:
            found[name] = found[twin] = min(fraction, kept[twin])
    return found


JOINTS = Joints(scores=in_step, errors=errors_in_step, uneven=_uneven, follows=_with_halves)
