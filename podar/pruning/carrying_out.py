"""Carries a plan out on a model, checks the result, and undoes what does not run as planned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import nn

from podar.errors import PodarError
from podar.graph import Graph
from podar.graph.clusters import Cluster
from podar.graph.slices import plan_for
from podar.graph.verification import ChangedNumber, Expectation, verify_trace
from podar.model.inputs import ExampleInputs
from podar.model.members import Members
from podar.plans.plan import Plan
from podar.plans.surgery import Undo, fill, reshape


def changing(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    removed: NDArray[np.bool_],
    clusters: Sequence[Cluster],
) -> Sequence[Cluster]:
    """Those clusters whose cut changes a number that the model computes with, found by trying halves of them."""
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
    return [c for part in parts for c in changing(model, example_inputs, graph, removed, part)] or clusters


def changing_as_traced(graph: Graph, removed: NDArray[np.bool_], clusters: Sequence[Cluster]) -> Sequence[Cluster]:
    """The same for the model that was traced; none where it was cut in the meantime, since it tells nothing then."""
    if {name: tuple(tensor.shape) for name, tensor in Members(graph.model).tensors.items()} != graph.shapes:
        return []
    return changing(graph.model, graph.example_inputs, graph, removed, clusters)


def _changes(model: nn.Module, example_inputs: ExampleInputs, graph: Graph, removed: NDArray[np.bool_]) -> bool:
    """Whether a cut changes a number, tried on twins of the model, which itself is not touched."""
    made = plan_for(graph, removed)

    def check(real: bool) -> None:
        def cut(twin: nn.Module) -> None:
            pending = reshape(twin, made, Undo(twin))
            if real:
                fill(pending)

        verify_trace(model, example_inputs, Expectation(graph, removed), real, cut)

    try:
        _hollow_then_real(check)
    except ChangedNumber:
        return True
    except PodarError:  # a run that fails for another reason tells nothing about numbers
        return False
    return False


def kept_whole(graph: Graph, clusters: Sequence[Cluster], why: str) -> Graph:
    """The graph in which these clusters are frozen, for the reason given."""
    return graph.with_frozen({family: why for cluster in clusters for family in cluster.families})


def carry_out(model: nn.Module, plan: Plan, expected: Expectation | None, example_inputs: ExampleInputs) -> None:
    """Apply one plan, verify the result, and undo it when that does not run as expected.

    **Arguments:** `expected`: what the result is compared with; None: it is not verified.

    **Raises:** `PodarError`: the plan is not the model's, or the result does not run as expected.
    """
    undo = Undo(model)
    try:
        pending = reshape(model, plan, undo)

        def check(real: bool) -> None:
            assert expected is not None
            if real:
                fill(pending)
            verify_trace(model, example_inputs, expected, real)

        if expected is not None:
            _hollow_then_real(check)
        fill(pending, 1)
    except BaseException:
        undo.restore()
        raise
    del undo  # nothing can be refused any more, so each dense weight is freed as soon as it is cut
    fill(pending)


def _hollow_then_real(check: Callable[[bool], None]) -> None:
    """Check without values first. What fails is checked again with values, since unfilled memory may hold anything."""
    try:
        check(False)
        return
    except ChangedNumber:
        raise  # this does not depend on what memory holds
    except PodarError:
        pass
    check(True)
