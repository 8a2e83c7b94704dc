"""Puts input channels in an order in which an N:M pattern keeps more of the weights; the network computes the same."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.errors import PodarError, UsageError
from podar.graph import Graph, trace
from podar.model.inputs import ExampleInputs, call
from podar.model.modes import modes_put_back
from podar.model.tensors import tensors_in
from podar.sparse.layers import Weight, weights_of
from podar.sparse.patterns import NofM, Pattern, parse_pattern

ROWS = 512  # of the consumers' matrices that the search looks at
PASSES = 3
SAME = 1e-3  # of the outputs' spread: sums in another order differ in the last bits only


@dataclass(frozen=True)
class Permuted:
    """One group of channels that got another order.

    **Attributes:**

    - `name`: the group, as `podar.trace` names it.
    - `channels`: how many.
    - `kept_before`, `kept_after`: fraction of the consumers' summed |weights| that the pattern keeps.
    """

    name: str
    channels: int
    kept_before: float
    kept_after: float


def permute(
    model: nn.Module, example_inputs: ExampleInputs, pattern: str | Pattern = "2:4", passes: int = PASSES
) -> list[Permuted]:
    """Reorder channels, in place, so that N of every M consecutive inputs hold as much weight as can be.

    Channels of a group are interchangeable: producers, norms and consumers change places together, so the model
    computes what it computed before; each group is checked on the example inputs and put back where it does not (group
    norms). The search exchanges channels between pairs of stripes of M until nothing improves: for M up to 4 the best
    of all ways to share 2·M channels among two stripes, for larger M the best exchange of two (after Pool and Yu,
    "Channel permutations for N:M sparsity", NeurIPS 2021).

    **Arguments:**

    - `example_inputs`: as of `podar.trace`.
    - `pattern`: N:M.
    - `passes`: how often every pair of stripes is looked at.

    **Returns:** The groups that changed. Prune afterwards: `podar.sparsify(model, pattern="2:4")`.

    **Raises:** `UsageError`: a pattern that is not N:M. PodarError: the model does not run on the inputs.

    ```python
    podar.sparse.permute(model, images[:1], "2:4")
    podar.sparse.reconstruct(model, pattern="2:4", data=images)
    ```
    """
    parsed = parse_pattern(pattern)
    if not isinstance(parsed, NofM):
        raise UsageError(f"pattern {parsed} does not depend on the order of channels: permute is for N:M, such as 2:4")
    weights = {w.name: w for w in weights_of(model, computed="skip")}
    masked = next((w for w in weights.values() if w.mask is not None), None)
    if masked is not None:
        raise PodarError(f"{masked.name} is masked already: permute channels before they are pruned")
    graph = trace(model, example_inputs)
    names = {k: group.name for group in graph.groups for k in group.families}
    wanted = _outputs(model, example_inputs)
    found = []
    for family, name in names.items():
        places = _places(graph, family)
        matrices = [
            m
            for m in (_matrix(graph, weights.get(n), n, d, family, parsed) for n, d in _axes(graph, family))
            if m is not None
        ]
        if places is None or not matrices:
            continue
        scores = torch.cat(matrices)
        scores = scores[:: -(-len(scores) // ROWS)]
        order = search(scores, parsed, passes)
        before, after = kept(scores, parsed), kept(scores[:, order], parsed)
        if not after > before * (1 + 1e-6):
            continue
        tensors = model.state_dict(keep_vars=True)
        _reorder(tensors, places, order)
        if not _same(_outputs(model, example_inputs), wanted):
            _reorder(tensors, places, order.argsort())
            continue
        whole = float(scores.sum())
        found.append(Permuted(name, len(order), before / whole, after / whole))
    return found


def kept(scores: Tensor, pattern: NofM) -> float:
    """What N:M keeps of a matrix (rows, inputs) of scores."""
    return float(scores.reshape(-1, pattern.of).topk(pattern.kept, dim=1).values.sum())


def search(scores: Tensor, pattern: NofM, passes: int = PASSES) -> Tensor:
    """An order of the columns under which N:M keeps much; never less than as they are.

    **Arguments:**

    - `scores`: (rows, columns), not negative; the columns are a multiple of M.
    """
    columns, m = scores.shape[1], pattern.of
    stripes = columns // m
    # Large columns dealt out over all stripes make a good beginning, where the order as it is does not beat it.
    dealt = scores.sum(0).argsort(descending=True).view(m, stripes).T.reshape(-1)
    order = max((torch.arange(columns), dealt), key=lambda o: kept(scores[:, o], pattern)).view(stripes, m)
    ways = _ways(m)
    for _ in range(passes if stripes > 1 else 0):
        improved = False
        for left, right in _rounds(stripes):
            both = torch.cat([order[left], order[right]], dim=1)  # (pairs, 2·M)
            values = scores[:, both]  # (rows, pairs, 2·M)
            gains = torch.stack(
                [values[..., w].unflatten(-1, (2, m)).topk(pattern.kept, dim=-1).values.sum((0, 2, 3)) for w in ways]
            )
            best = gains.argmax(0)  # (pairs,); the first way leaves everything as it is
            better = gains.gather(0, best[None])[0] > gains[0] * (1 + 1e-6)
            best = torch.where(better, best, 0)
            improved |= bool(better.any())
            chosen = both.gather(1, ways[best])
            order[left], order[right] = chosen[:, :m], chosen[:, m:]
        if not improved:
            break
    return order.reshape(-1)


def _ways(m: int) -> Tensor:
    """(ways, 2·M): how 2·M channels are shared among two stripes; the first changes nothing."""
    every = list(range(2 * m))
    if m <= 4:
        firsts = [(0, *rest) for rest in itertools.combinations(range(1, 2 * m), m - 1)]
        found = [[*first, *(k for k in every if k not in first)] for first in firsts]
    else:
        found = [every]
        for a, b in itertools.product(range(m), range(m, 2 * m)):
            swapped = list(every)
            swapped[a], swapped[b] = b, a
            found.append(swapped)
    return torch.tensor(found)


def _rounds(stripes: int) -> list[tuple[list[int], list[int]]]:
    """A tournament: every pair of stripes once, in rounds of pairs that do not touch each other."""
    players: list[int | None] = [*range(stripes), *([None] if stripes % 2 else [])]
    rounds = []
    for _ in range(len(players) - 1):
        half = len(players) // 2
        pairs = [(a, b) for a, b in zip(players[:half], reversed(players[half:])) if a is not None and b is not None]
        rounds.append(([a for a, _ in pairs], [b for _, b in pairs]))
        players = [players[0], players[-1], *players[1:-1]]
    return rounds


def _axes(graph: Graph, family: int) -> list[tuple[str, int]]:
    """(tensor, dimension) of every axis on which a family lies."""
    return [
        (name, dim)
        for name, dims in graph.record.layouts.items()
        for dim, ids in sorted(dims.items())
        if family in graph.families.of(ids)
    ]


def _places(graph: Graph, family: int) -> dict[tuple[str, int], np.ndarray] | None:
    """Positions (units, repetitions) of a family on each axis; None where exchanging units is not that simple."""
    units = graph.families[family].units
    if graph.families[family].role or len(units) < 2:
        return None
    found: dict[tuple[str, int], np.ndarray] = {}
    for name, dim in _axes(graph, family):
        ids = graph.record.layouts[name][dim]
        if ids.ndim == 2 and ids.shape[0] > 1:
            if ids.shape[1] == 1:
                continue  # depthwise: one input a filter, which moves with its filter
            return None
        under = graph.families.units(ids).reshape(ids.size, -1)
        own = np.isin(under, units)
        where = np.flatnonzero(own.any(axis=1))
        if (under[where] < graph.solution.units).sum(axis=1).max() > 1 or len(where) % len(units):
            return None
        unit = under[where][own[where]]
        order = np.argsort(unit, kind="stable")
        places = where[order].reshape(len(units), -1)
        if (unit[order].reshape(len(units), -1) != np.sort(units)[:, None]).any():
            return None
        found[name, dim] = places
    return found


def _matrix(graph: Graph, weight: Weight | None, name: str, dim: int, family: int, pattern: NofM) -> Tensor | None:
    """|weights| (outputs × kernel positions, units) of a layer whose inputs are this family alone, once each."""
    if weight is None or weight.axes[1] != dim or weight.groups > 1 or weight.inputs % pattern.of:
        return None
    units = np.sort(graph.families[family].units)
    under = graph.families.units(graph.record.layouts[name][dim]).reshape(weight.inputs, -1)
    if len(units) != weight.inputs or (np.sort(under.min(axis=1)) != units).any():
        return None
    columns = torch.from_numpy(np.argsort(under.min(axis=1), kind="stable"))
    if not bool((columns == torch.arange(len(columns))).all()):
        return None  # the family lies here in another order than its units: stripes would differ between layers
    return weight.matrix(weight.values.abs().float()).reshape(-1, weight.inputs).cpu()


@torch.no_grad()
def _reorder(tensors: dict[str, Any], places: dict[tuple[str, int], np.ndarray], order: Tensor) -> None:
    for (name, dim), where in places.items():
        tensor = tensors[name]
        index = np.arange(tensor.shape[dim])
        index[where.ravel()] = where[order.numpy()].ravel()
        tensor.copy_(tensor.index_select(dim, torch.from_numpy(index).to(tensor.device)))


@torch.no_grad()
def _outputs(model: nn.Module, inputs: ExampleInputs) -> list[Tensor]:
    with modes_put_back(model):
        outputs = tensors_in(call(model.eval(), inputs))
    return [tensor.detach().float() for tensor in outputs if tensor.is_floating_point()]


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(float((a - b).abs().max()) <= SAME * max(float(b.std(unbiased=False)), 1e-6) for a, b in zip(one, other))
