"""Depth: which whole residual blocks go, weighed against channels by the same importance."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.graph.graph import Graph
from podar.graph.residual_blocks import Block, residual_blocks
from podar.model.inputs import ExampleInputs
from podar.model.patterns import means, patterns
from podar.plans.plan import Plan
from podar.pruning.allocation import Target, moves_for
from podar.pruning.moves import Allocation, Moves, kept_steps
from podar.pruning.options import SCOPES, Options


def block_plan(blocks: Sequence[Block], graph: Graph) -> Plan:
    """The plan that skips these blocks."""
    return Plan(
        skips={name: form for block in blocks for name, form in block.skips.items()},
        shapes={name: graph.shapes[name] for block in blocks for name in block.tensors},
    )


def choose_blocks(
    model: nn.Module,
    example_inputs: ExampleInputs,
    graph: Graph,
    target: Target,
    elementwise: Mapping[str, Tensor],
    scores: NDArray[np.float64],
    options: Options,
) -> list[Block]:
    """Blocks that go, so that with the channels below the same importance the target is met.

    A block's importance is the sum over its parameters, relative to the mean of the blocks of its structure: just as a
    channel's is relative to its group. One block of each structure stays; one that has no equal stays too. Under
    "channels=…" every structure keeps that share of its blocks.

    **Arguments:**

    - `elementwise`: importance by parameter name; `scores`: the same, by unit.
    """
    moves, scope = moves_for(graph, target, scores, options), options.scope or SCOPES[0]
    held, part = (*patterns(options.protect), *(options.ratios or {})), patterns(options.only)
    blocks = [
        b
        for b in residual_blocks(model, example_inputs, graph)
        if not _protected(b, held, graph) and (not part or _within(b, part, graph))
    ]
    if not blocks:
        return []
    worth = np.array([_importance(b, elementwise) for b in blocks])
    keys, order = _keys(blocks, worth, scope, None if target.kind != "channels" else target.value)
    if target.kind == "channels":
        return [blocks[k] for k in order if keys[k] <= 1 - target.value]
    cluster, _ = moves.sequence(scope)
    thresholds = _thresholds(moves, cluster, scope)
    names = list(graph.elements)
    of_tensor = _owners([b.tensors for b in blocks], names)
    of_product = np.array([_block_of(m, blocks) for m in graph.costs.modules], dtype=np.int64)

    def cost(channels: int, gone: NDArray[np.bool_]) -> float:
        share = moves.share(moves.settle(kept_steps(moves, cluster[:channels])))
        left = np.append(~gone, True)
        return graph.costs.value(target.kind, share, left[of_tensor], left[of_product])

    dense = cost(0, np.zeros(len(blocks), dtype=bool))
    goal = target.value if target.absolute else target.value * dense
    # Everything whose key lies below one threshold goes: channels and blocks alike.
    marks = np.unique(np.concatenate([thresholds, keys[np.isfinite(keys)]]))
    low, high = 0, len(marks)
    while low < high:
        middle = (low + high) // 2
        gone = keys <= marks[middle]
        if cost(int(np.searchsorted(thresholds, marks[middle], side="right")), gone) <= goal:
            high = middle
        else:
            low = middle + 1
    below = marks[low - 1] if low else -math.inf  # blocks alone never pass the goal: channels do the rest
    return [blocks[k] for k in order if keys[k] <= below]


def _protected(block: Block, protect: tuple[str, ...], graph: Graph) -> bool:
    paths = [*block.skips, *(alias for name in block.tensors for alias in graph.aliases.get(name, (name,)))]
    parents = {".".join(p.split(".")[:k]) for p in paths for k in range(1, p.count(".") + 2)}
    return any(fnmatch.fnmatchcase(p, pattern) for p in parents for pattern in protect)


def _within(block: Block, part: tuple[str, ...], graph: Graph) -> bool:
    """Whether every tensor of a block lies in the part that may be cut."""
    return all(any(means(p, *graph.aliases.get(name, (name,))) for p in part) for name in block.tensors)


def _importance(block: Block, elementwise: Mapping[str, Tensor]) -> float:
    total = 0.0
    for name in block.tensors:
        if name in elementwise:
            total += float(elementwise[name].detach().sum(dtype=torch.float64))
    return total


def _keys(
    blocks: Sequence[Block], worth: NDArray[np.float64], scope: str, share: float | None
) -> tuple[NDArray[np.float64], list[int]]:
    """When each block goes (never: infinity), and all blocks in that order."""
    kinds: dict[object, list[int]] = {}
    for k, block in enumerate(blocks):
        kinds.setdefault(block.kind, []).append(k)
    keys = np.full(len(blocks), np.inf)
    for members in kinds.values():
        ranked = sorted(members, key=lambda k: worth[k])
        mean = worth[members].mean()
        for place, k in enumerate(ranked[:-1]):  # one stays
            relative = worth[k] / mean if mean > 0 else 1.0
            keys[k] = (place + 1) / len(ranked) if share is not None or scope != "global" else relative
    return keys, sorted(range(len(blocks)), key=lambda k: (keys[k], k))


def _thresholds(moves: Moves, cluster: NDArray[np.int64], scope: str) -> NDArray[np.float64]:
    """The key of each channel move, in the order of `sequence`, never falling."""
    place = np.zeros(len(moves.clusters), dtype=np.int64)
    keys = np.zeros(len(cluster))
    for i, c in enumerate(cluster):
        keys[i] = moves.ranks[c][place[c]] if scope == "global" else (place[c] + 1) / moves.steps[c]
        place[c] += 1
    return np.maximum.accumulate(keys) if len(keys) else keys


def _owners(tensors: Sequence[tuple[str, ...]], names: Sequence[str]) -> NDArray[np.int64]:
    owner = {name: k for k, own in enumerate(tensors) for name in own}
    return np.array([owner.get(name, -1) for name in names], dtype=np.int64)


def _block_of(module: str, blocks: Sequence[Block]) -> int:
    return next(
        (k for k, b in enumerate(blocks) if any(module == m or module.startswith(m + ".") for m in b.skips)), -1
    )


def share_of_target(target: Target, graph: Graph) -> Target:
    """The same target in absolute numbers: what it is a fraction of is the model before its blocks went."""
    if target.kind == "channels":
        return target
    whole = graph.costs.value(target.kind, np.ones(len(graph.families)))
    return Target(target.kind, target.value if target.absolute else target.value * whole, absolute=True, dense=whole)


def nothing_left(graph: Graph, target: Target) -> Allocation | None:
    """An allocation that removes nothing, where the blocks alone have met the target."""
    families = len(graph.families)
    if target.kind == "channels" or graph.costs.value(target.kind, np.ones(families)) > target.value:
        return None
    return Allocation(np.zeros(graph.solution.units, dtype=bool), np.ones(families), ())
