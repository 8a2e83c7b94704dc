"""The algebra of labels against sets and unions written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podar.graph.labels import EMPTY, INNER, OUTER, Labels

Edges = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=14)


@settings(max_examples=60, deadline=None)
@given(Edges, st.lists(st.integers(0, 11), max_size=3), st.sets(st.integers(0, 11)))
def test_equal_labels_go_together_and_frozen_ones_stay(
    edges: list[tuple[int, int]], frozen: list[int], wished: set[int]
) -> None:
    labels = Labels()
    ids = labels.fresh(12)
    for a, b in edges:
        labels.equal(ids[[a]], ids[[b]])
    for a in frozen:
        labels.freeze(ids[[a]], f"because of {a}")
    solution = labels.solve()

    together = [{i} for i in range(12)]  # by hand: merge sets until nothing changes
    for a, b in edges:
        one, other = next(s for s in together if a in s), next(s for s in together if b in s)
        if one is not other:
            together.remove(other)
            one |= other
    free = [s for s in together if not s & set(frozen)]
    assert solution.units == len(free)
    removed = np.zeros(solution.units, dtype=bool)
    for s in free:
        (unit,) = {int(u) for i in s for u in solution.units_of(ids[[i]]).ravel()}
        removed[unit] = bool(s & wished)
    gone = {i for s in free if s & wished for i in s}
    assert set(np.flatnonzero(~solution.alive(removed)[ids]).tolist()) == gone
    for s in together:
        for i in s:
            why = solution.reason[ids[i]]
            assert (why >= 0) == bool(s & set(frozen))
            if why >= 0:
                assert labels.reasons[why] in {f"because of {a}" for a in s & set(frozen)}


@pytest.mark.parametrize(("heads", "inner"), [(2, 3), (3, 2), (4, 1)])
def test_an_index_that_needs_two_atoms_exists_while_both_do(heads: int, inner: int) -> None:
    labels = Labels()
    channels = labels.fresh(heads * inner)
    labels.factor(channels.reshape(heads, inner))
    solution = labels.solve()
    assert solution.units == heads + inner if inner > 1 else heads
    if inner == 1:
        return
    assert sorted(solution.role.tolist()) == [OUTER] * heads + [INNER] * inner
    removed = np.zeros(solution.units, dtype=bool)
    removed[np.flatnonzero(solution.role == OUTER)[1]] = True
    removed[np.flatnonzero(solution.role == INNER)[0]] = True
    alive = solution.alive(removed)[channels].reshape(heads, inner)
    expected = np.ones((heads, inner), dtype=bool)
    expected[1], expected[:, 0] = False, False
    assert np.array_equal(alive, expected)


def test_two_factorisations_that_do_not_fit_freeze_with_a_reason() -> None:
    labels = Labels()
    channels = labels.fresh(12)
    labels.factor(channels.reshape(3, 4))
    labels.factor(channels.reshape(2, 6))
    solution = labels.solve()
    assert not (solution.units_of(channels) < solution.units).any()
    assert "factored in two ways" in labels.reasons[solution.reason[channels[0]]]


def test_the_same_factorisation_twice_is_one() -> None:
    labels = Labels()
    a, b = labels.fresh(6), labels.fresh(6)
    labels.factor(a.reshape(2, 3))
    labels.factor(b.reshape(2, 3))
    labels.equal(a, b)
    solution = labels.solve()
    assert solution.units == 5 and np.array_equal(solution.units_of(a), solution.units_of(b))


def test_outer_with_nothing_is_what_is_left() -> None:
    labels = Labels()
    a, nothing = labels.fresh(3), np.full(2, EMPTY)
    assert np.array_equal(labels.outer(a, nothing), np.repeat(a[:, None], 2, axis=1))
    assert np.array_equal(labels.outer(nothing, a), np.repeat(a[None], 2, axis=0))


def test_lengths_that_differ_are_refused() -> None:
    labels = Labels()
    with pytest.raises(ValueError, match="3 labels cannot equal 2"):
        labels.equal(labels.fresh(3), labels.fresh(2))
