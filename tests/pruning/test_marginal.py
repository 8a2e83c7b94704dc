"""Moves in the order of the least error for their cost."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import podar
from podar.graph.cost import Shares
from podar.pruning.marginal import by_error
from podar.pruning.moves import Moves
from podar.pruning.options import Options


def moves() -> Moves:
    model = nn.Sequential(nn.Linear(4, 40), nn.ReLU(), nn.Linear(40, 80), nn.ReLU(), nn.Linear(80, 3))
    graph = podar.trace(model, torch.zeros(1, 4))
    return Moves(graph, np.linspace(1, 2, graph.solution.units), Options(), 1)


def macs(own: Moves) -> Callable[[NDArray[np.int64]], float]:
    return lambda kept: own.graph.costs.macs(Shares(own.share(kept)))


def test_every_move_but_the_last_of_each_cluster_is_made() -> None:
    own = moves()
    for cost in (macs(own), lambda kept: 1.0):
        assert np.bincount(by_error(own, cost), minlength=2).tolist() == (own.steps - 1).tolist()


def test_dear_units_of_equal_cost_go_last() -> None:
    own = moves()
    for cluster, price in zip(own.clusters, (1.0, 100.0)):
        own.scores[own.graph.families[cluster.families[0]].units] = price
    order = by_error(own, lambda kept: float(kept.sum()))
    assert (order[: own.steps[0] - 1] == 0).all()
