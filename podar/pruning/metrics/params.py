"""The number of parameters."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.pruning.metrics.register import metric

if TYPE_CHECKING:
    from podar.graph.cost import Shares
    from podar.graph.graph import Graph


@metric("params", example="params=2M")
def params(graph: Graph, left: Shares, tables: Any) -> float:
    """How many parameters are left."""
    return graph.costs.params(left)
