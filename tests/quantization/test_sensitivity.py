"""Layers left out: those go first that give most, and only as many as the budget needs."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from podar.quantization.result import Row
from podar.quantization.sensitivity import left_out_until


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=150, unique=True), st.floats(0.05, 0.9))
def test_as_few_as_the_order_allows(costs: list[int], share: float) -> None:
    errors = {f"layer{k}": float(cost) for k, cost in enumerate(costs)}
    budget = share * sum(costs)
    built: list[tuple[str, ...]] = []

    def judged(left_out: Sequence[str], ranking: bool) -> Row:
        built.append(tuple(left_out))
        error = sum(cost for name, cost in errors.items() if name not in left_out)
        return Row("x", error=error, keeps=error <= budget, left_out=tuple(left_out))

    found = left_out_until(list(errors), judged, lambda done, total: None)
    if found is None:
        assert len(built) >= 1  # not before all but one are float
        return
    assert sum(cost for name, cost in errors.items() if name not in found) <= budget
    if len(costs) <= 64 and len(found) > 1:
        best = sorted(errors, key=lambda name: -errors[name])
        assert set(found) == set(best[: len(found)])
        assert sum(errors[name] for name in best[len(found) - 1 :]) > budget


def test_what_helped_only_together_with_another_is_all_that_stays() -> None:
    def judged(left_out: Sequence[str], ranking: bool) -> Row:
        both = {"b", "c"} <= set(left_out)
        error = 0.0 if both else 1.0 - 0.1 * ("a" in left_out) - 0.01 * len(left_out)
        return Row("x", error=error, keeps=both)

    found = left_out_until(["a", "b", "c", "d"], judged, lambda done, total: None)
    assert found is not None and set(found) == {"b", "c"}


def test_broken_rows_come_last() -> None:
    def judged(left_out: Sequence[str], ranking: bool) -> Row:
        error = None if "b" in left_out else 1.0 / (1 + len(left_out))
        return Row("x", error=error, keeps=set(left_out) == {"a", "c"})

    assert left_out_until(["a", "b", "c", "d"], judged, lambda done, total: None) == ("a", "c")
