"""What compensation does with awkward models and inputs: the right thing, or one clear sentence, and never harm."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import podar
from podar.compensation import worth
from podar.compensation.readings import Parameters
from podar.compensation.solving import solve
from podar.compensation.statistics import moments
from podar.criteria.unit_sums import unit_scores
from podar.errors import PodarError


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 6, 3), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 16, 3),
    ).eval()  # fmt: skip


class Layers(nn.Module):
    """Three linear layers; what happens on the way is up to those that inherit it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c = nn.Linear(8, 24), nn.Linear(24, 16), nn.Linear(16, 3)

    def before(self, x: Tensor) -> Tensor:
        return x

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(self.before(x))))))


X, Y = drawn(96, 2, 6, 6), drawn(192, 8)


def off(model: nn.Module, dense: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        wanted = dense(x).float()
        return float((model(x).float() - wanted).square().mean() / wanted.var())


def cut(dense: nn.Module, x: Tensor, data: Any = None) -> tuple[nn.Module, podar.pruning.result.Result]:
    model = copy.deepcopy(dense)
    return model, podar.prune(model, x[:1], "macs=0.5", data=data)


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, torch.float16])
def test_models_of_other_precision_come_as_near(kind: torch.dtype) -> None:
    plain, _ = cut(convolutions(), X)
    like, _ = cut(convolutions(), X, X)
    dense = convolutions().to(kind)
    model, result = cut(dense, X.to(kind), X.to(kind))
    assert result.compensation is not None and not result.compensation.failed
    assert {t.dtype for t in model.parameters()} == {kind}
    new = drawn(64, 2, 6, 6, seed=2)
    assert off(model, dense, new.to(kind)) < 1.2 * off(like, convolutions(), new) < off(plain, convolutions(), new)


def test_the_order_of_batches_changes_nothing() -> None:
    dense = convolutions()
    plain, _ = cut(dense, X)
    one, other = copy.deepcopy(plain), copy.deepcopy(plain)
    batches = [X[:40], X[40:64], X[64:]]
    podar.compensate(one, dense, batches)
    podar.compensate(other, dense, batches[::-1])
    for a, b in zip(one.state_dict().values(), other.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


def test_random_models_draw_the_same_on_both_sides_and_leave_the_generator_alone() -> None:
    class Noisy(Layers):
        def before(self, x: Tensor) -> Tensor:
            return x + torch.randn_like(x)

    dense = Noisy().eval()
    model, _ = cut(dense, Y)
    before = torch.random.get_rng_state()
    found = podar.compensate(model, dense, Y)
    assert torch.equal(torch.random.get_rng_state(), before)
    first = found.consumers[0]  # nothing before it was cut, so both see the very same inputs
    assert first.before is not None and first.before < 1e-9


def test_models_that_remember_come_back_as_they_were() -> None:
    class Keeps(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("average", torch.zeros(3))
            self.seen: list[int] = []

        def forward(self, x: Tensor) -> Tensor:
            y = super().forward(x)
            self.average = 0.9 * self.average + 0.1 * y.mean(0)
            self.seen.append(len(x))
            return y

    dense = Keeps().eval()
    model, result = cut(dense, Y, Y)
    assert isinstance(model, Keeps) and model.seen == [] and dense.seen == []
    assert bool((model.average == 0).all()) and result.compensation is not None and result.compensation.solved


def test_values_that_are_not_finite_are_named_and_change_nothing() -> None:
    class Broken(Layers):
        def forward(self, x: Tensor) -> Tensor:
            return self.c(torch.relu(self.b(torch.log(self.a(x)))))

    model, result = cut(Broken().eval(), Y, Y)
    found = result.compensation
    assert found is not None and {c.left for c in found.consumers if c.name != "a.weight"} == {
        "what it is given or gives is not finite"
    }
    assert any("not finite" in why for why in found.unmeasured.values())
    assert all(bool(p.isfinite().all()) for p in model.parameters())


def test_empty_batches_count_for_nothing() -> None:
    dense = Layers().eval()
    one, _ = cut(dense, Y, [Y])
    other, _ = cut(dense, Y, [Y[:0], Y, Y[:0]])
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))
    with pytest.raises(PodarError, match="no sample"):
        cut(dense, Y, [Y[:0], Y[:0]])


@pytest.mark.parametrize(
    "poor", [Y[:1], Y[:2], Y[:5], Y * 1e-20, torch.ones(64, 8).index_fill(0, torch.tensor([5]), 0.0)],
    ids=["one", "two", "five", "tiny", "almost constant"],
)  # fmt: skip
def test_poor_inputs_do_no_harm(poor: Tensor) -> None:
    dense, new = Layers().eval(), drawn(512, 8, seed=3)
    plain, _ = cut(dense, Y)
    solved = copy.deepcopy(plain)
    podar.compensate(solved, dense, poor)
    assert off(solved, dense, new) <= 1.3 * off(plain, dense, new)


@pytest.mark.parametrize("same", [torch.ones(64, 8), torch.zeros(64, 8), Y[:1].expand(64, 8)])
def test_one_sample_many_times_solves_nothing_and_is_said(same: Tensor) -> None:
    dense = Layers().eval()
    model, result = cut(dense, Y, same)
    assert result.compensation is not None and "64 times the same sample" in str(result.compensation.failed)
    before = copy.deepcopy(model.state_dict())
    found = podar.compensate(model, dense, [same[:32], same[32:]])
    assert "the same sample" in str(found.failed) and not found.consumers
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_fewer_rows_than_inputs_are_noticed() -> None:
    dense = Layers().eval()
    model, _ = cut(dense, Y)
    few = podar.compensate(copy.deepcopy(model), dense, Y[:12])
    assert any(c.few for c in few.consumers) and "fewer rows" in few.sentence and "few inputs" in str(few)
    many = podar.compensate(copy.deepcopy(model), dense, Y)
    assert not any(c.few for c in many.consumers) and "fewer rows" not in many.sentence


def test_a_consumer_that_is_used_twice_serves_both() -> None:
    class Twice(Layers):
        def __init__(self) -> None:
            super().__init__()
            self.other = nn.Linear(8, 24)

        def forward(self, x: Tensor) -> Tensor:
            each = [torch.relu(f(x)) for f in (self.a, self.other)]
            return torch.cat([self.c(torch.relu(self.b(h))) for h in each], 1)

    dense, new = Twice().eval(), drawn(512, 8, seed=3)
    plain, _ = cut(dense, Y)
    solved = copy.deepcopy(plain)
    podar.compensate(solved, dense, Y)
    with torch.no_grad():
        for half in (slice(0, 3), slice(3, 6)):
            a, b, wanted = (m(new)[:, half] for m in (solved, plain, dense))
            assert (a - wanted).square().mean() < 0.7 * (b - wanted).square().mean()


@pytest.mark.parametrize("memory", [1, 1000, 50_000])
def test_a_budget_that_holds_no_layer_leaves_plain_scores_and_still_solves(memory: int) -> None:
    dense = convolutions()
    graph = podar.trace(dense, X[:1])
    found = worth(graph, dense, X, unit_scores(graph), memory=memory)
    assert found.left and bool((found.errors > 0).all())


def test_sums_in_single_precision_agree_with_those_in_double() -> None:
    model, x = nn.Sequential(nn.Linear(64, 8)).eval(), drawn(4096, 64) + 5
    found = moments(model, [x[:2048], x[2048:]], Parameters(model), {"0.weight"}, 0)["0.weight"]
    exact = (x.double().T @ x.double()) / len(x)
    mean = x.double().mean(0)
    torch.testing.assert_close(found.mean_products(False)[0], exact, rtol=1e-5, atol=1e-5)
    centred = exact - mean[:, None] * mean
    assert (found.mean_products(True)[0] - centred).abs().max() < 1e-4 * centred.diagonal().mean()


def test_wide_layers_are_solved_in_single_precision_as_in_double() -> None:
    rows = drawn(1, 3000, 1100) @ (torch.eye(1100) + 0.3 * drawn(1100, 1100, seed=2) / 33) + 3
    old = drawn(1, 4, 1100, seed=3)
    wanted = rows @ (old + 0.3 * drawn(1, 4, 1100, seed=4)).mT + 0.1 * drawn(1, 3000, 4, seed=5)
    held = torch.arange(3000) % 10 == 9
    found = solve(rows, wanted, old, torch.zeros(1, 4), held)
    assert found.ridge is not None and found.matrix.dtype == torch.float32
    a, b = rows[0, ~held].double(), wanted[0, ~held].double()
    mean, middle = a.mean(0), b.mean(0)
    products = (a - mean).T @ (a - mean)
    ridge = found.ridge * products.diagonal().mean() * torch.eye(1100, dtype=torch.float64)
    exact = torch.linalg.solve(products + ridge, (a - mean).T @ (b - middle) + ridge @ old[0].double().T).T
    assert (found.matrix[0].double() - exact).norm() < 1e-3 * (exact - old[0].double()).norm()


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(4, 60), columns=st.integers(1, 30), scale=st.sampled_from([1e-6, 1.0, 1e6]),
    noise=st.floats(0, 10), seed=st.integers(0, 999), shifts=st.booleans(),
)  # fmt: skip
def test_a_solution_is_never_worse_on_what_was_held_back(
    rows: int, columns: int, scale: float, noise: float, seed: int, shifts: bool
) -> None:
    x = scale * drawn(1, rows, columns, seed=seed)
    old = drawn(1, 3, columns, seed=seed + 1)
    wanted = x @ old.mT + noise * scale * drawn(1, rows, 3, seed=seed + 2)
    held = torch.arange(rows) % 4 == 3
    found = solve(x, wanted, old, torch.zeros(1, 3), held, shifts=shifts)

    def error(matrix: Tensor, shift: Tensor) -> float:
        got = x[:, held].to(matrix.dtype) @ matrix.mT + shift.unsqueeze(1)
        return float((got - wanted[:, held]).square().sum())

    before = error(old.double(), torch.zeros(1, 3).double())
    assert error(found.matrix, found.shift) <= before * (1 + 1e-9) + 1e-30
