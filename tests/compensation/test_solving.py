"""Least squares on rows: exact where it can be, never worse on rows held back, better behind a ReLU."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from podar.compensation.solving import Cutoff, SolvedWeights, solve


def held(rows: int) -> Tensor:
    return torch.arange(rows) % 10 == 9


def solved(rows: Tensor, wanted: Tensor, outputs: int, **options: object) -> SolvedWeights:
    groups, columns = rows.shape[0], rows.shape[2]
    old, shift = torch.zeros(groups, outputs, columns), torch.zeros(groups, outputs)
    return solve(rows, wanted, old, shift, held(rows.shape[1]), **options)  # type: ignore[arg-type]


def test_a_map_is_found_again_with_its_intercept() -> None:
    torch.manual_seed(0)
    rows, matrix, shift = torch.randn(2, 400, 6), torch.randn(2, 4, 6), torch.randn(2, 4)
    found = solved(rows, rows @ matrix.mT + shift.unsqueeze(1), 4)
    torch.testing.assert_close(found.matrix.float(), matrix, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found.shift.float(), shift, rtol=1e-3, atol=1e-3)
    assert found.before > 0.9 and found.after < 1e-6 and found.ridge is not None


def test_without_a_taker_the_shift_stays() -> None:
    torch.manual_seed(0)
    rows, matrix = torch.randn(1, 300, 5), torch.randn(1, 3, 5)
    found = solved(rows, rows @ matrix.mT + 1, 3, shifts=False)
    assert torch.equal(found.shift, torch.zeros(1, 3, dtype=found.shift.dtype))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 8), st.integers(12, 60), st.booleans())
def test_never_worse_on_the_rows_held_back(seed: int, columns: int, rows: int, cut: bool) -> None:
    torch.manual_seed(seed)
    x, y, old = torch.randn(1, rows, columns), torch.randn(1, rows, 3), torch.randn(1, 3, columns)
    cutoff = Cutoff(torch.randn(1, rows, 3), torch.randn(1, 1, 3).sign()) if cut else None
    found = solve(x, y, old, torch.zeros(1, 3), held(rows), cutoff=cutoff)
    assert found.after <= found.before
    assert found.ridge is not None or torch.equal(found.matrix.float(), old)


def test_what_a_relu_cuts_off_does_not_count() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 4000, 8)
    wanted = rows @ torch.randn(1, 6, 8).mT
    wanted = torch.where(wanted > 0, wanted, 4 * wanted - torch.rand_like(wanted))
    cutoff = Cutoff(torch.zeros_like(wanted), torch.ones(1, 1, 6))
    behind, plain = solved(rows, wanted, 6, cutoff=cutoff), solved(rows, wanted, 6)

    def error(found: SolvedWeights) -> float:
        outputs = rows.double() @ found.matrix.mT + found.shift.unsqueeze(1)
        return float((outputs.relu() - wanted.double().relu()).square().mean())

    assert error(behind) < 0.1 * error(plain)


def test_single_precision_agrees_with_double() -> None:
    torch.manual_seed(0)
    rows = torch.randn(1, 3000, 1100) @ (torch.eye(1100) + 0.1 * torch.randn(1100, 1100) / 33)
    wanted = rows @ torch.randn(1, 4, 1100).mT
    single = solved(rows, wanted, 4)
    assert single.matrix.dtype == torch.float32
    x, y = rows.double()[0, ~held(3000)], wanted.double()[0, ~held(3000)]
    x, y = x - x.mean(0), y - y.mean(0)
    gram = x.T @ x
    exact = torch.linalg.solve(
        gram + (single.ridge or 0) * gram.diagonal().mean() * torch.eye(1100).double(), x.T @ y
    ).T
    assert float((single.matrix[0].double() - exact).norm() / exact.norm()) < 1e-3


def test_columns_that_are_all_zero_do_no_harm() -> None:
    rows = torch.randn(1, 200, 4)
    rows[..., 2] = 0
    found = solved(rows, rows @ torch.randn(1, 2, 4).mT, 2)
    assert bool(found.matrix.isfinite().all()) and found.after < 1e-6
