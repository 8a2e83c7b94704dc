"""Fine-tuning: it learns, stops as it says, resumes to the same weights and never looks at the test pictures."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.data import Dataset
from podar.errors import PodarError, UsageError
from podar.recover import accuracy


def small(classes: int = 2) -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, classes))


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


def test_a_loss_that_is_not_finite_leaves_the_last_good_step(model: nn.Module, data: Dataset) -> None:
    weights: list[Tensor] = []

    def after(done: int, total: int) -> None:
        weights.append(state(model)["fc.weight"])

    said = r"diverged in epoch 2: the loss is nan; lower .* as it was before step 9, its last good one\."
    with pytest.raises(PodarError, match=said):
        podar.finetune(Diverging(model, 10), data, epochs=2, after_step=after, **PLAIN)
    assert len(weights) == 9 and torch.equal(weights[7], state(model)["fc.weight"]), "those of the last finite loss"


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
    with pytest.raises(PodarError, match=r"no classifier: its output is of shape \(32, 4, 4, 4\)"):
        podar.finetune(nn.Sequential(model.get_submodule("conv")), data, **PLAIN)
    with pytest.raises(PodarError, match="same object"):
        podar.distill(model, model, data)
    with pytest.raises(UsageError, match="no parameter that can be trained"):
        podar.finetune(model.requires_grad_(False), data)


def test_more_classes_than_outputs_is_said(data: Dataset) -> None:
    narrow = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(PodarError, match=r"the label 1, and the model has 1 output"):
        podar.finetune(narrow, data, epochs=1, **PLAIN)


@pytest.mark.parametrize(
    "targets",
    [
        torch.rand(8, 2) * 7,
        torch.rand(8, 1),
        torch.ones(8, 1),
        torch.rand(8),
        torch.zeros(8, 2, dtype=torch.long),
        torch.zeros(8, dtype=torch.bool),
        torch.full((8,), -1),
        (torch.zeros(8, dtype=torch.long), torch.rand(8, 4)),
        [{"boxes": torch.rand(2, 4)}] * 8,
        ["cat"] * 8,
    ],
    ids=lambda value: f"{type(value).__name__} {tuple(getattr(value, 'shape', ()))}",
)
@pytest.mark.parametrize("outputs", [1, 2])
def test_targets_that_are_no_classes_are_refused_and_the_model_is_left(targets: Any, outputs: int) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, outputs))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PodarError, match="needs targets that are classes.*give loss="):
        podar.finetune(model, [(torch.rand(8, 1, 8, 8), targets)], epochs=1, **PLAIN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_one_output_is_no_classifier() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    with pytest.raises(PodarError, match="one output, which leaves a classifier nothing"):
        podar.finetune(model, [(torch.rand(8, 1, 8, 8), torch.zeros(8, dtype=torch.long))], epochs=1, **PLAIN)


def test_a_bad_target_in_a_later_batch_is_refused_too(model: nn.Module) -> None:
    good, x = torch.zeros(8, dtype=torch.long), torch.rand(8, 1, 8, 8)
    with pytest.raises(PodarError, match="the label 5, and the model has 2 outputs"):
        podar.finetune(model, [(x, good), (x, good + 5)], epochs=1, **PLAIN)


@pytest.mark.parametrize("kind", [torch.int32, torch.uint8, torch.int64])
def test_class_numbers_of_any_whole_type_and_shares_of_classes_are_learned(model: nn.Module, kind: torch.dtype) -> None:
    x, labels = torch.rand(8, 1, 8, 8), torch.arange(8) % 2
    shares = nn.functional.one_hot(labels).float()
    found = []
    for targets in (labels.to(kind), shares):
        student = copy.deepcopy(model)
        found.append(podar.finetune(student, [(x, targets)], epochs=2, seed=1, **PLAIN).epochs[-1]["loss"])
    assert found[0] == pytest.approx(found[1], rel=1e-5)


class Samples(torch.utils.data.Dataset[Any]):
    def __init__(self, data: Dataset, labelled: bool) -> None:
        self.split, self.labelled = data.train, labelled

    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> Any:
        return self.split[place] if self.labelled else self.split[place][0]


def test_a_student_learns_from_the_teacher_alone(model: nn.Module, data: Dataset) -> None:
    teacher = copy.deepcopy(model)
    podar.finetune(teacher, data, epochs=3, **PLAIN)
    images = data.train.batch(torch.arange(64))[0]
    forms: list[Any] = [
        images,
        [images[:32], images[32:]],
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images), 32),
        [{"x": images}],
        {"x": images},
        Samples(data, labelled=False),
        Samples(data, labelled=True),
    ]
    for form in forms:
        student = copy.deepcopy(model)
        podar.distill(student, teacher, form, epochs=8, **PLAIN)
        assert accuracy(student, data.test) > 0.8
    with pytest.raises(PodarError, match=r"training needs \(inputs, targets\)"):
        podar.finetune(model, [images], epochs=1, **PLAIN)


def test_a_teacher_with_other_classes_is_refused(model: nn.Module, data: Dataset) -> None:
    with pytest.raises(
        PodarError, match=r"the teacher answers with the shape \(32, 5\) and the student with \(32, 2\)"
    ):
        podar.distill(model, small(5), data.train.batch(torch.arange(64))[0], epochs=1, **PLAIN)


@dataclass
class Answer:
    scores: Tensor
    hidden: Tensor


class Wrapped(nn.Module):
    """Two inputs, and an answer in a container."""

    def __init__(self, wrap: Any) -> None:
        super().__init__()
        self.inner, self.wrap = small(), wrap

    def forward(self, x: Tensor, gain: Tensor) -> Any:
        y = self.inner(x * gain[:, None, None, None])
        return self.wrap(y)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda y: (y, y.square()),
        lambda y: [y],
        lambda y: {"logits": y, "features": y[:, :1]},
        lambda y: {"out": y},
        lambda y: Answer(y, y),
    ],
)
@pytest.mark.parametrize("kind", [tuple, list, dict])
def test_answers_and_inputs_in_containers(wrap: Any, kind: type, data: Dataset) -> None:
    torch.manual_seed(0)
    model = Wrapped(wrap)
    x, labels = data.train.batch(torch.arange(64))
    both = {"x": x, "gain": torch.ones(64)} if kind is dict else kind([x, torch.ones(64)])
    batches = [(both, labels)]
    before = accuracy(model, batches)
    podar.finetune(model, batches, epochs=10, teacher=copy.deepcopy(model), **PLAIN)
    assert accuracy(model, batches) > max(before, 0.6)
    assert podar.recover.recalibrate(model, batches) == 1
    assert podar.recover.recalibrate(model, [both]) == 1
