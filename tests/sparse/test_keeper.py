"""Keepers: schedules grow without ever going back, RigL keeps its size, a resumed training has the masks it had."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import UsageError
from podar.sparse import SCHEDULES, gradual, keep, rigl
from podar.sparse.keeper import Keeper

X = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
BATCHES = [(X[k : k + 16], (X[k : k + 16, 0] > 0).long()) for k in range(0, 64, 16)]


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_rises_from_none_to_all(name: str) -> None:
    course = [SCHEDULES[name]()(k / 50) for k in range(51)]
    assert course == sorted(course) and course[-1] == 1 and min(course) >= 0


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("pattern", ["unstructured", "2:4", "2x1"])
def test_masks_only_grow_and_meet_the_amount(name: str, pattern: str) -> None:
    model = network()
    keeper = gradual(model, 0.5, schedule=name, pattern=pattern)
    seen: list[int] = []

    def look(done: int, total: int) -> None:
        seen.append(podar.sparsity(model).zeros)

    podar.finetune(model, BATCHES, epochs=5, precision="fp32", keeper=keeper, after_step=look)
    assert seen == sorted(seen)
    assert podar.sparsity(model).fraction == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("importance", ["random", "magnitude"])
def test_momentum_brings_nothing_back(importance: str) -> None:
    model = network()
    keeper = gradual(model, 0.9, importance=importance, updates=40)
    optimizer = torch.optim.SGD(model.parameters(), 0.5, momentum=0.95)
    gone = {n: ~m for n, m in keeper.masks.items()}
    for step in range(40):
        nn.functional.cross_entropy(model(BATCHES[step % 4][0]), BATCHES[step % 4][1]).backward()
        optimizer.step()
        optimizer.zero_grad()
        keeper.step((step + 1) / 40, optimizer)
        assert all(bool((gone[n] <= ~m).all()) for n, m in keeper.masks.items())
        gone = {n: ~m for n, m in keeper.masks.items()}
    assert podar.sparsity(model).fraction == pytest.approx(0.9, abs=0.01)


def test_a_time_budget_that_ends_early_leaves_the_amount_met() -> None:
    model = network()
    podar.finetune(model, BATCHES, epochs=10_000, seconds=0.5, precision="fp32", keeper=gradual(model, 0.8))
    assert podar.sparsity(model).fraction == pytest.approx(0.8, abs=0.01)


def test_rigl_rewires_at_equal_size() -> None:
    model = network()
    keeper = rigl(model, 0.8, updates=10)
    first = {n: m.clone() for n, m in keeper.masks.items()}
    podar.finetune(model, BATCHES, epochs=20, precision="fp32", keeper=keeper)
    assert any(not torch.equal(first[n], m) for n, m in keeper.masks.items())
    assert all(int(first[n].sum()) == int(m.sum()) for n, m in keeper.masks.items())
    assert podar.sparsity(model).fraction == pytest.approx(0.8, abs=0.01)


def test_rigl_keeps_what_a_trained_network_knows() -> None:
    model = network()
    podar.finetune(model, BATCHES, epochs=30, precision="fp32")
    largest = model.get_parameter("2.weight").detach().abs().max()
    keeper = rigl(model, 0.9)
    assert model.get_parameter("2.weight").detach().abs().max() == largest
    assert all(bool((~keeper.masks[n]).any()) for n in ("0.weight", "2.weight"))


@pytest.mark.parametrize("kind", ["cubic", "rigl"])
def test_a_resumed_training_ends_as_if_it_had_not_stopped(tmp_path: Path, kind: str) -> None:
    def keeper_of(model: nn.Module) -> Keeper:
        return gradual(model, 0.8) if kind == "cubic" else rigl(model, 0.8, updates=10)

    def train(model: nn.Module, stop: int | None = None, file: Path | None = None) -> nn.Module:
        def after(done: int, total: int) -> None:
            if done == stop:
                raise KeyboardInterrupt

        podar.finetune(
            model, BATCHES, epochs=12, precision="fp32", keeper=keeper_of(model), after_step=after, checkpoint=file
        )
        return model

    whole = train(network())
    with pytest.raises(KeyboardInterrupt):
        train(network(), stop=30, file=tmp_path / "c")
    resumed = train(network(), file=tmp_path / "c")
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, resumed.state_dict()[name]), name


def test_zeros_hold_in_training_and_the_rest_learns() -> None:
    model = network()
    podar.sparsify(model, 0.7)
    zeros = podar.sparsity(copy.deepcopy(model)).zeros
    keeper = keep(model)
    before = model.get_parameter("2.weight").detach().clone()
    podar.finetune(model, BATCHES, epochs=2, precision="fp32", keeper=keeper)
    after: Tensor = model.get_parameter("2.weight").detach()
    assert podar.sparsity(model).zeros == zeros and not torch.equal(before, after)
    assert bool(((before == 0) == (after == 0)).all())


def test_held_zeros_need_no_share_of_the_training_and_changing_masks_do() -> None:
    model = nn.Linear(6, 4)
    podar.sparsify(model, 0.5)
    keeper = keep(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    handle = keeper.attach(optimizer)
    for _ in range(3):
        model(torch.randn(8, 6)).square().sum().backward()
        optimizer.step()
    assert float(podar.sparsity(model)) == 0.5
    handle.remove()
    for changing in (gradual(model, 0.9), rigl(model, 0.9)):
        with pytest.raises(UsageError, match="attach\\(optimizer, share\\)"):
            changing.attach(optimizer)
