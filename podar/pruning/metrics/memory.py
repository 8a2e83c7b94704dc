"""The peak of the activations that live at the same time, in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.pruning.metrics.register import metric

if TYPE_CHECKING:
    from podar.graph.cost import Shares
    from podar.graph.graph import Graph


@metric("memory", unit="B", example="memory=0.6")
def memory(graph: Graph, left: Shares, tables: Any) -> float:
    """How many bytes of activations at the peak are left."""
    return graph.costs.memory(left)
