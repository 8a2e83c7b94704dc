"""Importance of a unit: the sum over every slice that it owns, counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import podar
from podar.criteria import score, unit_sums
from podar.criteria.unit_sums import slice_sums, unit_scores
from podar.errors import PodarError
from podar.graph import Graph
from tests.graph.random_networks import INPUT, Network, networks


def by_hand(graph: Graph, elements: dict[str, torch.Tensor]) -> np.ndarray:
    total = np.zeros(graph.solution.units + 1)
    for first, names in graph.aliases.items():
        name = next((n for n in names if n in elements), None)
        for dim, ids in graph.record.layouts.get(first, {}).items():
            if name is None:
                continue
            values = elements[name].double().numpy()
            for place, units in zip(np.ndindex(ids.shape), graph.families.units(ids).reshape(ids.size, -1)):
                if ids.ndim == 1:
                    part = values.take(place[0], axis=dim)
                else:  # input i of group g
                    rows = len(values) // ids.shape[0]
                    part = values[place[0] * rows : (place[0] + 1) * rows, place[1]]
                for unit in units:
                    total[unit] += part.sum()
    return total[:-1]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_every_slice_counts_once(model: Network) -> None:
    graph = podar.trace(model, INPUT)
    squares = {n: p.detach().square() for n, p in model.named_parameters()}
    wanted = by_hand(graph, squares)
    np.testing.assert_allclose(unit_scores(graph, squares), wanted, rtol=1e-4)
    np.testing.assert_allclose(unit_scores(graph, score("magnitude", model)), wanted, rtol=1e-4)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(1, 7), min_size=2, max_size=4),
    st.sets(st.integers(0, 1), min_size=1),
    st.integers(1, 40),
    st.booleans(),
)
def test_blocks_change_nothing(shape: list[int], dims: set[int], block: int, lazily: bool) -> None:
    values = torch.randn(shape, dtype=torch.float64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(unit_sums, "BLOCK", block)
        layout = {d: (shape[d],) for d in dims}
        found = slice_sums(values, layout, torch.square) if lazily else slice_sums(values.square(), layout)
    for d in dims:
        others = [k for k in range(len(shape)) if k != d]
        np.testing.assert_allclose(found[d], values.square().sum(others).numpy())


def test_inputs_of_a_grouped_convolution_are_summed_group_by_group() -> None:
    weight = torch.arange(24.0).reshape(6, 2, 2, 1)  # three groups of two outputs and two inputs
    found = slice_sums(weight, {1: (3, 2)})[1]
    wanted = [[float(weight[2 * g : 2 * g + 2, i].sum()) for i in range(2)] for g in range(3)]
    assert found.tolist() == wanted


@pytest.mark.parametrize("block", [1, 9, 30, 1000])
def test_groups_are_summed_block_by_block(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    weight = torch.randn(6, 2, 3, 3, dtype=torch.float64)
    monkeypatch.setattr(unit_sums, "BLOCK", block)
    found = slice_sums(weight, {0: (6,), 1: (3, 2)}, torch.abs)
    np.testing.assert_allclose(found[0], weight.abs().sum((1, 2, 3)).numpy())
    np.testing.assert_allclose(found[1], weight.abs().view(3, 2, 2, 9).sum((1, 3)).numpy())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_value_names_its_parameter(bad: float) -> None:
    last = nn.Linear(8, 2)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), last)
    with torch.no_grad():
        last.weight[1, 3] = bad
    with pytest.raises(PodarError, match=r"2\.weight has NaN or infinite values"):
        podar.prune(model, torch.randn(1, 4), "channels=0.5")
