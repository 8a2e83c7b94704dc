"""Channels, heads and units that stay: the only metric that counts them instead of pricing what they cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.pruning.metrics.register import metric

if TYPE_CHECKING:
    from podar.graph.cost import Shares
    from podar.graph.graph import Graph


@metric("channels", example="channels=0.5", counts=True)
def channels(graph: Graph, left: Shares, tables: Any) -> float:
    """How many units of all groups that can shrink are left."""
    return float(
        sum(group.size * left.families[list(group.families)].mean() for group in graph.groups if not group.held)
    )
