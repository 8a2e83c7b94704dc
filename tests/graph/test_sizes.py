"""Ints that remember where they come from, and what was sized by them."""

from __future__ import annotations

import copy
import operator
import pickle

from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from podar.graph.equations import Solver
from podar.graph.sizes import Attribute, Equality, Provenance, Size

OPERATIONS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.floordiv, "%": operator.mod}
HEADS, WIDTH = Attribute("attn", "heads"), Attribute("attn", "width")


def size(value: int, attribute: Attribute = HEADS, owner: Provenance | None = None) -> Size:
    return (owner or Provenance()).size(value, attribute)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.lists(st.tuples(st.sampled_from("+-*/%"), st.integers(1, 9), st.booleans()), max_size=5))
def test_arithmetic_is_that_of_int_and_the_expression_remembers_it(
    start: int, steps: list[tuple[str, int, bool]]
) -> None:
    owner = Provenance()
    plain, tracked = start, owner.size(start, HEADS)
    for symbol, number, reflected in steps:
        if reflected and symbol in "/%" and plain == 0:
            continue
        a, b = (number, plain) if reflected else (plain, number)
        x, y = (number, tracked) if reflected else (tracked, number)
        plain = {"+": a + b, "-": a - b, "*": a * b}[symbol] if symbol in "+-*" else a // b if symbol == "/" else a % b
        tracked = (
            {"+": x + y, "-": x - y, "*": x * y}[symbol] if symbol in "+-*" else x // y if symbol == "/" else x % y
        )
        assert tracked == plain and type(tracked) is Size
    assert Solver([], {HEADS: start}).value(tracked.expr, {}) == plain


def test_copies_forget() -> None:
    tracked = size(8)
    assert type(copy.deepcopy(tracked)) is int
    assert type(pickle.loads(pickle.dumps(tracked))) is int


def test_a_formula_in_floats_fixes_the_size() -> None:
    owner = Provenance()
    width = owner.size(64, WIDTH)
    assert width**-0.5 == 0.125
    owner.finish()
    (constraint,) = owner.constraints
    assert isinstance(constraint, Equality) and (constraint.left, constraint.right) == (WIDTH, 64)


def test_a_comparison_that_was_true_must_stay_true() -> None:
    owner = Provenance()
    assert owner.size(8, HEADS) == owner.size(8, WIDTH)
    owner.finish()
    assert [(c.left, c.right) for c in owner.constraints if isinstance(c, Equality)] == [(HEADS, WIDTH)]


def test_attributes_of_modules_are_replaced_and_listed() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.shape, self.flag, self.conv = 4, (2, 3), True, nn.Conv2d(3, 5, 3)

    block, owner = Block(), Provenance()
    owner.attach(block.named_modules())
    assert type(block.heads) is Size and all(type(n) is Size for n in block.shape)
    assert type(block.flag) is bool
    assert type(block.conv.kernel_size[0]) is int  # kernel positions never go
    assert owner.dense[Attribute("", "shape", 1)] == 3
    assert owner.dense[Attribute("conv", "out_channels")] == 5


def test_a_formula_that_grows_without_end_becomes_a_number() -> None:
    owner = Provenance()
    width = owner.size(8, WIDTH)
    for _ in range(100):
        width = width + width
    assert width == 8 << 100
    owner.finish()
    assert any(isinstance(c, Equality) and isinstance(c.right, int) for c in owner.constraints)
