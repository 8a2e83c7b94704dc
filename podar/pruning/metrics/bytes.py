"""Parameters and buffers, in bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.pruning.metrics.register import metric

if TYPE_CHECKING:
    from podar.graph.cost import Shares
    from podar.graph.graph import Graph


@metric("bytes", unit="B", example="bytes=300k")
def bytes(graph: Graph, left: Shares, tables: Any) -> float:
    """How many bytes of parameters and buffers are left."""
    return graph.costs.bytes(left)
