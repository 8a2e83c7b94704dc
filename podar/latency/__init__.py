"""Latency as a target: the time of one run in the runtime that will serve, predicted by layers and then measured.

This file declares the metric; everything that measures is imported when a target asks for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.latency.found import Found
from podar.pruning.metrics.register import metric

if TYPE_CHECKING:
    from torch import nn

    from podar.graph.cost import Shares
    from podar.graph.graph import Graph
    from podar.latency.prices import Prices
    from podar.model.inputs import ExampleInputs
    from podar.pruning.options import Options

__all__ = ["Found"]


def _prepare(model: nn.Module, example_inputs: ExampleInputs, graph: Graph, options: Options) -> Prices:
    from podar.latency.prices import prepare  # it imports torch and the runtimes

    return prepare(model, example_inputs, graph, options)


@metric("latency", unit="ms", example="latency=8ms", prepare=_prepare)
def latency(graph: Graph, left: Shares, tables: Any) -> float:
    """How many milliseconds one run of what is left takes."""
    return tables.price(graph, left)
