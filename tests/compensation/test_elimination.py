"""The order of units and the error of each removal, against refits by brute force."""

from __future__ import annotations

import numpy as np
import torch

from podar.compensation.elimination import Share, eliminate


def problem(outputs: int = 5, units: int = 8, kernel: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    rows = torch.randn(200, units * kernel, generator=g, dtype=torch.float64)
    rows = rows @ torch.randn(units * kernel, units * kernel, generator=g, dtype=torch.float64)
    columns = torch.arange(units * kernel).reshape(units, kernel)
    return torch.randn(outputs, units * kernel, generator=g, dtype=torch.float64), rows.T @ rows / 200, columns


def refit(weight: torch.Tensor, h: torch.Tensor, kept: torch.Tensor) -> float:
    """The least squared error with some of the columns alone."""
    repaired = torch.linalg.solve(h[kept][:, kept], h[kept] @ weight.T).T
    off = weight.clone()
    off[:, kept] -= repaired
    return float(((off @ h) * off).sum())


def share(weight: torch.Tensor, h: torch.Tensor, columns: torch.Tensor) -> Share:
    return Share(weight.clone(), torch.linalg.inv(h), columns)


def test_each_error_is_that_of_a_refit() -> None:
    weight, h, columns = problem()
    curve = eliminate([share(weight, h, columns)], 8)
    for gone in range(1, 8):
        kept = columns[torch.from_numpy(np.sort(curve.order[gone:]))].reshape(-1)
        np.testing.assert_allclose(curve.errors[gone], refit(weight, h, kept), rtol=1e-6)


def test_the_first_to_go_is_the_cheapest_of_all() -> None:
    weight, h, columns = problem()
    curve = eliminate([share(weight, h, columns)], 8)
    alone = [refit(weight, h, columns[[k for k in range(8) if k != u]].reshape(-1)) for u in range(8)]
    assert curve.order[0] == int(np.argmin(alone))


def test_errors_of_several_maps_add_up() -> None:
    weight, h, columns = problem()
    one = eliminate([share(weight, h, columns)], 8)
    two = eliminate([share(weight, h, columns), share(weight, h, columns)], 8)
    assert (one.order == two.order).all()
    np.testing.assert_allclose(2 * one.errors, two.errors, rtol=1e-9)


def test_curves_never_fall_and_rounds_of_many_stay_near_single_steps() -> None:
    weight, h, columns = problem(units=64, kernel=1)
    single = eliminate([share(weight, h, columns)], 64, at_once=64)
    many = eliminate([share(weight, h, columns)], 64, at_once=16)
    for curve in (single, many):
        assert (np.diff(curve.errors) >= 0).all() and sorted(curve.order) == list(range(64))
    assert many.errors[48] <= 1.2 * single.errors[48]


def test_columns_of_other_families_stay_and_help() -> None:
    weight, h, columns = problem(units=12)
    own, others = columns[::2], columns[1::2].reshape(-1)
    curve = eliminate([share(weight, h, own)], 6)
    for gone in range(1, 6):
        kept = torch.cat([own[torch.from_numpy(curve.order[gone:])].reshape(-1), others]).sort().values
        np.testing.assert_allclose(curve.errors[gone], refit(weight, h, kept), rtol=1e-6)
