"""Multiply-accumulates of one forward pass at the example input."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.pruning.metrics.register import metric

if TYPE_CHECKING:
    from podar.graph.cost import Shares
    from podar.graph.graph import Graph


@metric("macs", example="macs=0.5")
def macs(graph: Graph, left: Shares, tables: Any) -> float:
    """How many multiply-accumulates are left."""
    return graph.costs.macs(left)
