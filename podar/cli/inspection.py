"""What `podar inspect` and `export` find out, as plain data for a table or for JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.graph.cost import Shares
from podar.model.tensors import tensors_in

if TYPE_CHECKING:
    from podar.graph import Graph
    from podar.workshops import Source


def anatomy(source: Source, model: str) -> tuple[dict[str, Any], Graph]:
    """Groups, costs and frozen axes of a model.

    **Returns:** plain data, and the graph itself. `params` and `macs` of a group are what would go if all of it went.
    `blocks`, where the model's library numbers them: what lies in each; a group is of the `block` that makes it.
    """
    inputs = source.inputs()
    built = source.model
    graph = source.workshop.trace(built, inputs)
    whole = np.ones(len(graph.families))
    blocks = _blocks(source.workshop.blocks(built), graph)
    groups = []
    for group in graph.groups:
        without = whole.copy()
        without[list(group.families)] = 0
        maker = group.name.partition("[")[0].partition(" ")[0]
        groups.append(
            {
                "name": group.name,
                "block": next((block["name"] for block in blocks if _within(maker, block["module"])), None),
                "kind": group.kind,
                "size": group.size,
                "params": round(graph.costs.params(Shares(whole)) - graph.costs.params(Shares(without))),
                "macs": round(graph.costs.macs(Shares(whole)) - graph.costs.macs(Shares(without))),
                "tied": list(group.tied),
                "held": group.held,
                "members": [{"name": name, "dim": dim} for name, dim in group.members],
            }
        )
    by_reason: dict[str, list[str]] = {}
    for name, dim, reason in graph.frozen:
        by_reason.setdefault(reason, []).append(f"{name} dim {dim}")
    found = {
        "model": model,
        "inputs": _shapes(inputs),
        "cost": graph.cost().to_json(),
        "layers": [name for name, (_, _, own) in graph.elements.items() if own],
        "blocks": blocks,
        "groups": groups,
        "frozen": [{"name": name, "dim": dim, "reason": reason} for name, dim, reason in graph.frozen],
        "frozen_by_reason": dict(sorted(by_reason.items(), key=lambda item: -len(item[1]))),
        "notes": list(source.notes),
    }
    return found, graph


def _blocks(called: Mapping[str, str], graph: Graph) -> list[dict[str, Any]]:
    """What lies in each numbered block: its parameters, a tensor that several share where it stands first, and MACs."""
    macs = graph.costs.macs_by_module(np.ones(len(graph.families)))
    return [
        {
            "name": name,
            "module": path,
            "params": sum(n for tensor, (n, _, own) in graph.elements.items() if own and _within(tensor, path)),
            "macs": sum(n for module, n in macs.items() if _within(module, path)),
        }
        for path, name in called.items()
    ]


def _within(name: str, module: str) -> bool:
    return f"{name}.".startswith(f"{module}.")


def _shapes(inputs: Any) -> str:
    return ", ".join("×".join(map(str, tensor.shape)) for tensor in tensors_in(inputs))
