"""Budgets: every spelling that means something is read, and everything else refused in one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from podar.errors import UsageError
from podar.quantization.budget import Budget, parse_budget
from podar.quantization.judging import Judged


@given(st.sampled_from(["accuracy", "agreement"]), st.floats(0.01, 1))
def test_what_is_written_is_read_back(kind: str, bound: float) -> None:
    assert parse_budget(f" {kind} >= {bound!r}") == Budget(kind, bound)
    assert parse_budget(str(Budget("error", 0.1))) == Budget("error", 0.1)


def test_percent() -> None:
    assert parse_budget("accuracy>=99%") == Budget("accuracy", 0.99)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("acuracy>=0.99", "did you mean accuracy"),
        ("loss<=0.1", "no budget of 'loss'"),
        ("accuracy<=0.99", "wrong way round"),
        ("error>=0.1", "wrong way round"),
        ("accuracy>=99", "no share"),
        ("accuracy>=0", "no share"),
        ("error<=0", "no error that can be met"),
        ("accuracy>=0.9.9", "no number"),
        ("accuracy", "nothing that can be checked"),
        ("", "nothing that can be checked"),
        ("accuracy>=nan", "nothing that can be checked"),
    ],
)
def test_what_makes_no_sense_is_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_budget(text)


def test_a_budget_is_kept_or_not() -> None:
    floating = Judged(0.9, 1.0, 0.0)
    assert Budget("accuracy", 0.99).kept(Judged(0.895, 0.5, 0.3), floating)
    assert not Budget("accuracy", 0.99).kept(Judged(0.88, 0.5, 0.3), floating)
    assert not Budget("error", 0.1).kept(Judged(0.9, 1.0, None), floating)
    assert Budget("error", 0.1).kept(Judged(None, None, 0.1), floating)
