"""Depth: which whole residual blocks go, weighed against channels by the same importance."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.graph.cost import Shares
from podar.graph.graph import Graph
from podar.graph.residual_blocks import ResidualBlock, residual_blocks
from podar.model.inputs import ExampleInputs
from podar.model.patterns import means, patterns
from podar.plans.plan import Plan
from podar.pruning.aim import Aim
from podar.pruning.allocation import moves_for
from podar.pruning.moves import Allocation, Moves, kept_steps
from podar.pruning.options import SCOPES, Options
from podar.pruning.target import Target


def block_plan(blocks: Sequence[ResidualBlock], graph: Graph) -> Plan:
    """The plan that skips these blocks."""
    return Plan(
        skips={name: form for block in blocks for name, form in block.skips.items()},
        shapes={name: graph.shapes[name] for block in blocks for name in block.tensors},
    )


def candidates(
    model: nn.Module, example_inputs: ExampleInputs, graph: Graph, options: Options
) -> tuple[ResidualBlock, ...]:
    """The residual blocks that may go."""
    held, part = (*patterns(options.protect), *(options.ratios or {})), patterns(options.only)
    return tuple(
        b
        for b in residual_blocks(model, example_inputs, graph)
        if not _protected(b, held, graph) and (not part or _within(b, part, graph))
    )


def choose_blocks(
    blocks: Sequence[ResidualBlock],
    graph: Graph,
    targets: Sequence[Target],
    elementwise: Mapping[str, Tensor],
    scores: NDArray[np.float64],
    options: Options,
) -> list[ResidualBlock]:
    """The blocks that go. Together with all channels of less importance their removal meets the target.

    A block's importance is the sum over its parameters, relative to the mean of the blocks of its structure, as a
    channel's importance is relative to its group. One block of each structure stays; one that has no equal stays too.
    Under "channels=…" every structure keeps that share of its blocks.

    **Arguments:**

    - `blocks`: those that may go.
    - `elementwise`: importance by parameter name; `scores`: the same, by unit.
    """
    moves, scope = moves_for(graph, targets, scores, options), options.scope or SCOPES[0]
    if not blocks:
        return []
    worth = np.array([_importance(b, elementwise) for b in blocks])
    share = targets[0].value if targets[0].metric.counts else None
    keys, order = _keys(blocks, worth, scope, share)
    if share is not None:
        return [blocks[k] for k in order if keys[k] <= 1 - share]
    aim = Aim(graph, targets)
    cluster, _ = moves.sequence(scope)
    thresholds = _thresholds(moves, cluster, scope)
    names = list(graph.elements)
    of_tensor = _owners([b.tensors for b in blocks], names)
    of_product = np.array([_block_of(m, blocks) for m in graph.costs.modules], dtype=np.int64)

    def cost(channels: int, gone: NDArray[np.bool_]) -> float:
        families = moves.share(moves.settle(kept_steps(moves, cluster[:channels])))
        stays = np.append(~gone, True).astype(np.float64)
        return aim.cost(Shares(families, stays[of_tensor], stays[of_product]))

    # Everything whose key lies below one threshold goes: channels and blocks alike.
    marks = np.unique(np.concatenate([thresholds, keys[np.isfinite(keys)]]))
    low, high = 0, len(marks)
    while low < high:
        middle = (low + high) // 2
        gone = keys <= marks[middle]
        if cost(int(np.searchsorted(thresholds, marks[middle], side="right")), gone) <= aim.goal:
            high = middle
        else:
            low = middle + 1
    below = marks[low - 1] if low else -math.inf  # the blocks alone do not go below the goal: channels do the rest
    return [blocks[k] for k in order if keys[k] <= below]


def without(graph: Graph, targets: Sequence[Target]) -> Callable[[Sequence[ResidualBlock]], bool]:
    """A test of blocks: whether the model without them still costs at least what the targets allow."""
    aim, names, families = Aim(graph, targets), list(graph.elements), np.ones(len(graph.families))

    def enough(gone: Sequence[ResidualBlock]) -> bool:
        of_tensor = _owners([b.tensors for b in gone], names)
        of_product = np.array([_block_of(m, gone) for m in graph.costs.modules], dtype=np.int64)
        return (
            aim.cost(Shares(families, (of_tensor < 0).astype(np.float64), (of_product < 0).astype(np.float64)))
            >= aim.goal
        )

    return enough


def _protected(block: ResidualBlock, protect: tuple[str, ...], graph: Graph) -> bool:
    paths = [*block.skips, *(alias for name in block.tensors for alias in graph.aliases.get(name, (name,)))]
    parents = {".".join(p.split(".")[:k]) for p in paths for k in range(1, p.count(".") + 2)}
    return any(fnmatch.fnmatchcase(p, pattern) for p in parents for pattern in protect)


def _within(block: ResidualBlock, part: tuple[str, ...], graph: Graph) -> bool:
    """Whether every tensor of a block lies in the part that may be cut."""
    return all(any(means(p, *graph.aliases.get(name, (name,))) for p in part) for name in block.tensors)


def _importance(block: ResidualBlock, elementwise: Mapping[str, Tensor]) -> float:
    total = 0.0
    for name in block.tensors:
        if name in elementwise:
            total += float(elementwise[name].detach().sum(dtype=torch.float64))
    return total


def _keys(
    blocks: Sequence[ResidualBlock], worth: NDArray[np.float64], scope: str, share: float | None
) -> tuple[NDArray[np.float64], list[int]]:
    """A key for each block, and all blocks by their keys: small ones go first, infinity never goes."""
    kinds: dict[object, list[int]] = {}
    for k, block in enumerate(blocks):
        kinds.setdefault(block.kind, []).append(k)
    keys = np.full(len(blocks), np.inf)
    for members in kinds.values():
        ranked = sorted(members, key=lambda k: worth[k])
        mean = worth[members].mean()
        for place, k in enumerate(ranked[:-1]):  # one block of each structure stays
            relative = worth[k] / mean if mean > 0 else 1.0
            keys[k] = (place + 1) / len(ranked) if share is not None or scope != "global" else relative
    return keys, sorted(range(len(blocks)), key=lambda k: (keys[k], k))


def _thresholds(moves: Moves, cluster: NDArray[np.int64], scope: str) -> NDArray[np.float64]:
    """The key of each move of channels, in the order of `Moves.sequence`; keys never fall."""
    place = np.zeros(len(moves.clusters), dtype=np.int64)
    keys = np.zeros(len(cluster))
    for i, c in enumerate(cluster):
        keys[i] = moves.ranks[c][place[c]] if scope == "global" else (place[c] + 1) / moves.steps[c]
        place[c] += 1
    return np.maximum.accumulate(keys) if len(keys) else keys


def _owners(tensors: Sequence[tuple[str, ...]], names: Sequence[str]) -> NDArray[np.int64]:
    owner = {name: k for k, own in enumerate(tensors) for name in own}
    return np.array([owner.get(name, -1) for name in names], dtype=np.int64)


def _block_of(module: str, blocks: Sequence[ResidualBlock]) -> int:
    return next(
        (k for k, b in enumerate(blocks) if any(module == m or module.startswith(m + ".") for m in b.skips)), -1
    )


def amounts_of(targets: Sequence[Target], graph: Graph) -> list[Target]:
    """The same targets as absolute amounts, since their fractions are meant of the model before its blocks went."""
    if targets[0].metric.counts:
        return list(targets)
    aim = Aim(graph, targets)
    return [
        replace(target, value=goal, absolute=True, dense=dense)
        for target, goal, dense in zip(targets, aim.goals, aim.dense)
    ]


def nothing_left(graph: Graph, targets: Sequence[Target]) -> Allocation | None:
    """An allocation that removes nothing, where the blocks alone have met the targets."""
    families = np.ones(len(graph.families))
    if targets[0].metric.counts:
        return None
    aim = Aim(graph, targets)
    if aim.cost(Shares(families)) > aim.goal:
        return None
    return Allocation(np.zeros(graph.solution.units, dtype=bool), families, ())
