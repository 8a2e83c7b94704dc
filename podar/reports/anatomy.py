"""The anatomy of a model: its groups, costs and frozen axes, as plain data for a table, a picture or JSON."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.errors import sizes
from podar.graph.cost import Shares
from podar.model.tensors import tensors_in

if TYPE_CHECKING:
    from podar.graph import Graph


def anatomy(
    graph: Graph, *, model: str, inputs: Any, numbered: Mapping[str, str], notes: Iterable[str] = ()
) -> dict[str, Any]:
    """Groups, costs and frozen axes of a model.

    **Arguments:**

    - `graph`: what tracing the model on the example `inputs` found.
    - `model`: what it is called. `notes`: what else its reader should know, one sentence each.
    - `numbered`: the modules that the model's library numbers, by their paths, and what it calls each; may be empty.

    **Returns:** Plain data. `params` and `macs` of a group are what would go if all of it went. `blocks`: what lies in
    each numbered module; a group is of the `block` that makes it.

    ```python
    anatomy(podar.trace(model, images), model="resnet18", inputs=images, numbered={})["groups"][0]["size"]
    ```
    """
    whole = np.ones(len(graph.families))
    blocks = _blocks(numbered, graph)
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
    return {
        "model": model,
        "inputs": ", ".join(sizes(tensor.shape) for tensor in tensors_in(inputs)),
        "cost": graph.cost().to_json(),
        "layers": [name for name, (_, _, own) in graph.elements.items() if own],
        "blocks": blocks,
        "groups": groups,
        "frozen": [{"name": name, "dim": dim, "reason": reason} for name, dim, reason in graph.frozen],
        "frozen_by_reason": dict(sorted(by_reason.items(), key=lambda item: -len(item[1]))),
        "notes": list(notes),
    }


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
