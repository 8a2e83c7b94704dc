"""The loops over every weight: podar-native's and torch's give what plain indexing and float64 give."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podar.model import fast_loops

SETTINGS = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool, torch.complex64]


@pytest.fixture(params=["podar-native", "torch"])
def whose(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param == "torch":
        monkeypatch.setattr(fast_loops, "_native", lambda: None)
    elif fast_loops._native() is None:
        pytest.skip("podar-native is not built here")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param
    torch.set_num_threads(threads)


@SETTINGS
@given(st.integers(1, 4), st.integers(1, 600), st.integers(1, 70), st.integers(0, 2**30))
def test_sums_of_squares(groups: int, rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    matrices = torch.randn(groups, rows, columns, generator=generator)
    found = fast_loops.square_sums(matrices)
    if found is None:
        pytest.skip("podar-native is not built here")
    squares = matrices.double().square()
    np.testing.assert_allclose(found[0], squares.sum(2).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[1], squares.sum(1).numpy(), rtol=1e-5)


def test_wide_matrices_are_summed_alike() -> None:
    matrices = torch.randn(1, 263, 2051)  # several rows at a time, and some left over on either side
    found = fast_loops.square_sums(matrices)
    if found is not None:
        np.testing.assert_allclose(found[0], matrices.double().square().sum(2).numpy(), rtol=1e-5)
        np.testing.assert_allclose(found[1], matrices.double().square().sum(1).numpy(), rtol=1e-5)


def test_what_cannot_be_read_is_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    assert fast_loops.square_sums(torch.randn(1, 3, 4, dtype=torch.float64)) is None
    assert fast_loops.square_sums(torch.randn(1, 4, 3).transpose(1, 2)) is None
    monkeypatch.setattr(fast_loops, "_native", lambda: None)
    assert fast_loops.square_sums(torch.randn(1, 3, 4)) is None


@SETTINGS
@given(st.data(), st.sampled_from(DTYPES), st.sampled_from([(), (3, 3), (2,), (5, 5), (7, 7), (1, 1)]))
def test_rows_and_columns(whose: str, data: st.DataObject, dtype: torch.dtype, inner: tuple[int, ...]) -> None:
    rows, columns = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40))
    tensor = (torch.randn(rows, columns, *inner) * 3).to(dtype)
    some = data.draw(st.one_of(st.none(), st.lists(st.integers(0, rows - 1), max_size=rows)))
    others = torch.tensor(data.draw(st.lists(st.integers(0, columns - 1), max_size=columns)), dtype=torch.long)
    chosen = None if some is None else torch.tensor(some, dtype=torch.long)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_loops, "BLOCK", data.draw(st.integers(1, 50)))
        found = fast_loops.take(tensor, chosen, others)
    wanted = tensor[:, others] if chosen is None else tensor[chosen][:, others]
    assert found.dtype == dtype and found.is_contiguous()
    assert torch.equal(found, wanted)
