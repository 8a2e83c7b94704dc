"""Fine-tuning: it learns, stops as it says, resumes to the same weights and never looks at the test pictures."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.data import Dataset
from podar.errors import PodarError, UsageError
from podar.recover import accuracy

PLAIN: dict[str, Any] = {"precision": "fp32", "batch_size": 32, "lr": 0.05}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def test_it_learns_and_tells_each_epoch(model: nn.Module, data: Dataset) -> None:
    seen: list[tuple[str, int, int, dict[str, float]]] = []
    history = podar.finetune(model, data, epochs=4, progress=lambda *told: seen.append(told), **PLAIN)
    assert accuracy(model, data.test) > 0.9
    assert [entry["epoch"] for entry in history.epochs] == [1, 2, 3, 4]
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert history.epochs[-1]["val_accuracy"] > 0.9
    assert history.epochs[-1]["lr"] < 0.01, "the schedule ends low"
    assert (history.stopped, history.precision) == (None, "fp32")
    steps = [done for _, done, _, _ in seen]
    assert steps == sorted(steps) and seen[-1][1] == seen[-1][2]


def test_the_test_pictures_are_never_looked_at(model: nn.Module, data: Dataset) -> None:
    def refuse(rows: Tensor) -> Tensor:
        raise AssertionError("test pictures were read")

    podar.finetune(model, replace(data, test=replace(data.test, pixels=refuse)), epochs=1, **PLAIN)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(model: nn.Module, data: Dataset) -> None:
    first, second, other = model, copy.deepcopy(model), copy.deepcopy(model)
    torch.manual_seed(1)
    podar.finetune(first, data, epochs=2, seed=3, **PLAIN)
    torch.manual_seed(2)
    podar.finetune(second, data, epochs=2, seed=3, **PLAIN)
    podar.finetune(other, data, epochs=2, seed=4, **PLAIN)
    assert_same(state(first), state(second))
    assert not torch.equal(state(first)["fc.weight"], state(other)["fc.weight"])


def test_modes_and_the_callers_random_state_are_kept(model: nn.Module, data: Dataset) -> None:
    model.eval()
    model.get_submodule("norm").train()
    before = torch.get_rng_state()
    podar.finetune(model, data, epochs=1, **PLAIN)
    assert torch.equal(torch.get_rng_state(), before)
    assert not model.training and model.get_submodule("norm").training


@pytest.mark.parametrize("broken_off_in", [1, 2])
def test_a_resumed_training_ends_exactly_like_one_that_was_not_broken_off(
    model: nn.Module, data: Dataset, tmp_path: Path, broken_off_in: int
) -> None:
    whole, resumed, file = copy.deepcopy(model), copy.deepcopy(model), tmp_path / "training.pt"
    expected = podar.finetune(whole, data, epochs=3, **PLAIN)

    def break_off(done: int, total: int) -> None:
        if done > total * broken_off_in / 3 + 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        podar.finetune(model, data, epochs=3, checkpoint=file, after_step=break_off, **PLAIN)
    steps: list[int] = []
    history = podar.finetune(
        resumed, data, epochs=3, checkpoint=file, after_step=lambda done, _: steps.append(done), **PLAIN
    )
    assert_same(state(whole), state(resumed))
    assert [e["loss"] for e in history.epochs] == [e["loss"] for e in expected.epochs]
    assert len(steps) * 3 == steps[-1] * (3 - broken_off_in), "finished epochs are not repeated"


def test_a_finished_training_is_not_repeated(model: nn.Module, data: Dataset, tmp_path: Path) -> None:
    first = podar.finetune(model, data, epochs=1, checkpoint=tmp_path / "t.pt", **PLAIN)
    again = copy.deepcopy(model)
    assert podar.finetune(again, data, epochs=1, checkpoint=tmp_path / "t.pt", **PLAIN) == first
    assert_same(state(model), state(again))


def test_a_budget_that_is_spent_ends_the_training(model: nn.Module, data: Dataset, tmp_path: Path) -> None:
    file = tmp_path / "t.pt"
    history = podar.finetune(model, data, epochs=10_000, seconds=0.5, checkpoint=file, **PLAIN)
    assert history.stopped is not None and "0.5 s" in history.stopped
    assert all(entry["loss"] > 0 for entry in history.epochs), "an epoch without a step is none"
    again = podar.finetune(copy.deepcopy(model), data, epochs=10_000, seconds=0.5, checkpoint=file, **PLAIN)
    assert len(again.epochs) == len(history.epochs) and again.stopped


class Diverging(nn.Module):
    """A network whose outputs become NaN after so many training steps."""

    def __init__(self, inner: nn.Module, after: int) -> None:
        super().__init__()
        self.inner, self.left = inner, after

    def forward(self, x: Tensor) -> Tensor:
        """Logits, until they are not."""
        self.left -= self.training
        return self.inner(x) * (1.0 if self.left > 0 else float("nan"))


def test_a_loss_that_is_not_finite_leaves_the_last_good_epoch(model: nn.Module, data: Dataset) -> None:
    one = copy.deepcopy(model)
    saved: list[dict[str, Tensor]] = []

    def after(done: int, total: int) -> None:
        if done == total // 2:
            saved.append(state(one))

    with pytest.raises(PodarError, match=r"diverged in epoch 2: the loss is nan; lower the learning rate"):
        podar.finetune(Diverging(one, 10), data, epochs=2, after_step=after, **PLAIN)
    assert_same(saved[0], state(one))


def test_a_loss_that_is_never_finite_leaves_the_model_as_it_came(model: nn.Module, data: Dataset) -> None:
    before = state(model)
    with pytest.raises(PodarError, match=r"in epoch 1: .* The model is as it was before the training\."):
        podar.finetune(Diverging(model, 0), data, epochs=2, **PLAIN)
    assert_same(before, state(model))


def test_the_teacher_is_listened_to_and_not_changed(model: nn.Module, data: Dataset) -> None:
    teacher, alone = copy.deepcopy(model), copy.deepcopy(model)
    podar.finetune(teacher, data, epochs=2, **PLAIN)
    teacher.train()
    before = state(teacher)
    podar.distill(model, teacher, data, epochs=1, **PLAIN)
    podar.finetune(alone, data, epochs=1, **PLAIN)
    assert_same(before, state(teacher))
    assert teacher.training and all(p.grad is None or not p.grad.any() for p in teacher.parameters())
    assert not torch.equal(state(model)["fc.weight"], state(alone)["fc.weight"])


def test_batches_of_a_loader_are_data_too(model: nn.Module, data: Dataset) -> None:
    loader = torch.utils.data.DataLoader(data.train, batch_size=32, shuffle=True)
    history = podar.finetune(model, loader, epochs=3, **PLAIN)
    assert accuracy(model, data.test) > 0.9 and "val_accuracy" not in history.epochs[0]


def test_frozen_parameters_stay(model: nn.Module, data: Dataset) -> None:
    model.get_submodule("conv").requires_grad_(False)
    before = state(model)
    podar.finetune(model, data, epochs=1, **PLAIN)
    assert torch.equal(before["conv.weight"], state(model)["conv.weight"])
    assert not torch.equal(before["fc.weight"], state(model)["fc.weight"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs=0 trains nothing"),
        ({"batch_size": 0}, "batch_size=0 makes no batch"),
        ({"seconds": 0}, "seconds=0 leaves no time"),
        ({"label_smoothing": 1.0}, "label_smoothing=1 is not between"),
        ({"lr": -1.0}, "lr=-1 learns nothing"),
        ({"precision": "fp8"}, "precision='fp8'"),
    ],
)
def test_options_that_make_no_sense(model: nn.Module, data: Dataset, options: dict[str, Any], message: str) -> None:
    before = state(model)
    with pytest.raises(UsageError, match=message):
        podar.finetune(model, data, **{**PLAIN, **options})
    assert_same(before, state(model))


def test_data_that_cannot_be_trained_on(model: nn.Module, data: Dataset) -> None:
    batch = data.train.batch(torch.arange(8))
    with pytest.raises(UsageError, match="read again"):
        podar.finetune(model, iter([batch]))
    with pytest.raises(PodarError, match="empty"):
        podar.finetune(model, [])
    with pytest.raises(PodarError, match="hold no pictures"):
        podar.finetune(model, data.train.subset(torch.arange(0)))


def test_models_that_cannot_be_trained(model: nn.Module, data: Dataset) -> None:
    with pytest.raises(PodarError, match=r"no classifier: its output is of shape \(1, 4, 4, 4\)"):
        podar.finetune(nn.Sequential(model.get_submodule("conv")), data, **PLAIN)
    with pytest.raises(PodarError, match="same object"):
        podar.distill(model, model, data)
    with pytest.raises(UsageError, match="no parameter that can be trained"):
        podar.finetune(model.requires_grad_(False), data)


def test_more_classes_than_outputs_is_said(data: Dataset) -> None:
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(PodarError, match=r"the label 1, and the model has 1 output"):
        podar.finetune(narrow, data, epochs=1, **PLAIN)
