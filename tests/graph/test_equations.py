"""The solver of sizes: which value each attribute gets once labels are gone, and which size cannot follow."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podar.graph.equations import SizeConflict, Solver, grid_shape
from podar.graph.sizes import Attribute, Equality, Grid, Term

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod}
HEADS, WIDTH = Attribute("attn", "heads"), Attribute("attn", "width")


IDS = np.arange(1, 25).reshape(4, 6)  # four heads of six


def solve(constraints: list[Any], gone: list[int], dense: dict[Attribute, int]) -> dict[Attribute, int]:
    return Solver(constraints, dense).solve(lambda ids: ~np.isin(ids, gone))


def test_attributes_follow_the_block_that_they_size() -> None:
    grid = Grid(IDS, (HEADS, WIDTH), "view in attn")
    one_head = IDS[2].tolist()
    assert solve([grid], one_head, {HEADS: 4, WIDTH: 6}) == {HEADS: 3}
    two_of_each = IDS[:, [0, 5]].ravel().tolist()
    assert solve([grid], two_of_each, {HEADS: 4, WIDTH: 6}) == {WIDTH: 4}
    assert solve([grid], [], {HEADS: 4, WIDTH: 6}) == {}


def test_an_attribute_inside_a_formula_is_found() -> None:
    formula = Term("+", Term("*", 2, WIDTH), 12)  # 2 · width + 12 = 24 columns
    ids = np.arange(1, 25)
    assert solve([Grid(ids, (formula,), "split")], [1, 2, 3, 4], {WIDTH: 6}) == {WIDTH: 4}


@pytest.mark.parametrize(
    ("constraints", "gone", "why"),
    [
        ([Grid(IDS, (HEADS, 6), "view in attn")], IDS[:, 0].tolist(), "hard-coded size 6 at view in attn"),
        ([Grid(IDS, (HEADS, WIDTH), "view in attn")], [1], "unequal counts at view in attn"),
        (
            [Grid(IDS[0], (WIDTH,), "a"), Grid(IDS[1], (WIDTH,), "b")],
            [1],
            r"attn\.width would be 5 where 6 is needed, at b",
        ),
    ],
)
def test_what_cannot_be_solved_says_why(constraints: list[Any], gone: list[int], why: str) -> None:
    with pytest.raises(SizeConflict, match=why):
        solve(constraints, gone, {HEADS: 4, WIDTH: 6})


def test_the_shape_that_remains() -> None:
    alive = np.ones((4, 6), dtype=bool)
    alive[1] = False
    assert grid_shape(alive) == (3, 6)
    alive[0, 0] = False
    assert grid_shape(alive) is None


A, B, C, D = (Attribute("", name) for name in ("a_width", "b_left", "c_right", "depth"))
LEAVES = st.one_of(st.integers(1, 9), st.sampled_from([A, B, C, D]))
EXPRESSIONS = st.recursive(
    LEAVES, lambda inner: st.builds(Term, st.sampled_from(["+", "-", "*", "//", "%"]), inner, inner), max_leaves=5
)


def test_sizes_that_only_name_each_other_are_solved() -> None:
    ids = np.arange(1, 17)
    found = solve([Equality(A, Term("+", B, C), "a comparison"), Grid(ids, (A,), "view")], [1, 2], {A: 16, B: 8, C: 8})
    assert found[A] == 14 and found.get(B, 8) + found.get(C, 8) == 14
    assert solve([Equality(A, Term("+", B, C), "a comparison")], [], {A: 16, B: 8, C: 8}) == {}


@settings(max_examples=200, deadline=2000)
@given(
    st.lists(st.builds(Equality, EXPRESSIONS, EXPRESSIONS, st.just("x")), max_size=6),
    st.lists(st.builds(lambda e, n: Grid(np.arange(1, n + 1), (e,), "x"), EXPRESSIONS, st.integers(1, 9)), max_size=3),
    st.lists(st.integers(1, 3), max_size=2, unique=True),
    st.integers(1, 10**9),
)
def test_the_solver_always_comes_to_an_end(
    equalities: list[Any], grids: list[Any], gone: list[int], large: int
) -> None:
    dense = {A: 16, B: 8, C: 8, D: large}
    try:
        solved = solve(equalities + grids, gone, dense)
    except SizeConflict as conflict:
        assert conflict.why
        return
    solver = Solver([], dense)
    assert all(solver.value(e.left, solved) == solver.value(e.right, solved) for e in equalities)


def test_a_huge_attribute_in_a_formula_is_found_without_trying_all() -> None:
    ids = np.arange(1, 25)
    half = Term("//", D, 10**11)
    assert solve([Grid(ids, (half,), "view")], [1, 2], {D: 24 * 10**11}) == {D: 22 * 10**11}
