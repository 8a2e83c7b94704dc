"""The largest difference is found, wherever it hides."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from podar.formats.parity import largest, noisy, tolerance_for


def of(want: Tensor, have: Tensor) -> float:
    return largest([want], [have], ["y"]).relative


@given(st.integers(0, 23), st.floats(1e-3, 10.0))
def test_one_changed_number_is_found_at_its_place(place: int, by: float) -> None:
    want = torch.linspace(-2, 2, 24).reshape(2, 3, 4)
    have = want.clone()
    have.view(-1)[place] += by
    found = largest([torch.zeros(3), want], [torch.zeros(3), have], ["a", "b"])
    assert found.relative == pytest.approx(by / 2, rel=1e-4)
    assert found.where.startswith(f"b[{place // 12}, {place // 4 % 3}, {place % 4}] is ")


def test_it_is_relative_to_the_output_and_outputs_near_zero_are_judged_kindly() -> None:
    assert of(torch.tensor([1000.0, 1.0]), torch.tensor([1000.1, 1.0])) == pytest.approx(1e-4, rel=1e-2)
    assert of(torch.tensor([1e-9]), torch.tensor([2e-9])) == pytest.approx(1e-6, rel=1e-2)


@pytest.mark.parametrize(
    ("want", "have"),
    [
        (torch.tensor([1.0]), torch.tensor([math.nan])),
        (torch.tensor([math.nan]), torch.tensor([1.0])),
        (torch.tensor([math.inf]), torch.tensor([-math.inf])),
        (torch.tensor([1.0]), torch.tensor([[1.0]])),
        (torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64)),
        (torch.tensor([3]), torch.tensor([4])),
        (torch.tensor([True]), torch.tensor([False])),
    ],
)
def test_what_no_tolerance_excuses(want: Tensor, have: Tensor) -> None:
    assert of(want, have) == math.inf


def test_equal_oddities_are_equal() -> None:
    odd = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    assert of(odd, odd.clone()) == 0
    assert of(torch.empty(0, 3), torch.empty(0, 3)) == 0
    assert of(torch.tensor([1 + 2j]), torch.tensor([1 + 2j])) == 0


def test_noise_moves_floats_only_and_is_the_same_each_time() -> None:
    images, tokens = torch.zeros(2, 3), torch.arange(4)
    once, twice = noisy((images, tokens)), noisy((images, tokens))
    assert not torch.equal(once[0], images)
    assert torch.equal(once[1], tokens)
    assert torch.equal(once[0], twice[0])


def test_coarser_types_are_allowed_more() -> None:
    assert tolerance_for([torch.ones(1)]) < tolerance_for([torch.ones(1, dtype=torch.float16)])
