"""Distilling without labels: any outputs come near the dense ones, and forms that cannot be compared are refused."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.model.batches import Batch
from podar.recover.matching import Matching

PLAIN: dict[str, Any] = {"precision": "fp32", "batch_size": 32}


@dataclass
class Answer:
    value: Tensor
    rest: dict[str, Tensor]


class Pair(NamedTuple):
    logits: Tensor
    boxes: Tensor


class Net(nn.Module):
    """A small convolutional net with a batch norm and dropout, whose answer `wrap` puts into its form."""

    def __init__(self, width: int, wrap: Any, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem, self.norm = nn.Conv2d(2, width, 3, padding=1), nn.BatchNorm2d(width)
        self.drop, self.out, self.wrap = nn.Dropout(0.5), nn.Conv2d(width, 4, 1), wrap

    def forward(self, x: Tensor) -> Any:
        """A map [N, 4, H, W], or what `wrap` makes of it."""
        return self.wrap(self.out(self.drop(torch.relu(self.norm(self.stem(x))))))


WRAPS: dict[str, Any] = {
    "a map": lambda y: y,
    "a regression": lambda y: y.mean((2, 3)),
    "one value": lambda y: y.mean((2, 3))[:, :1],
    "values without columns": lambda y: y.mean((1, 2, 3)),
    "a sequence": lambda y: y.flatten(2).transpose(1, 2),
    "a tuple": lambda y: (y, [y.mean((2, 3)) * 1000]),
    "a dict": lambda y: {"out": y, "aux": y.square(), "count": torch.tensor(3)},
    "a dataclass": lambda y: Answer(y, {"mean": y.mean()}),
    "logits and boxes": lambda y: Pair(y.mean((2, 3)), y.flatten(2)),
}


def error(student: nn.Module, teacher: nn.Module, inputs: Tensor) -> float:
    """Relative squared error, or divergence, of what both answer in eval mode."""
    objective = Matching(teacher, None)
    student = copy.deepcopy(student).eval()
    objective.check(student, iter([Batch(inputs)]), None)
    with torch.no_grad():
        return float(objective.loss(student.eval(), Batch(inputs))[0])


@pytest.mark.parametrize("wrap", WRAPS)
def test_any_outputs_come_near_the_dense_ones_without_labels(wrap: str) -> None:
    dense, student = Net(16, WRAPS[wrap]), Net(8, WRAPS[wrap], seed=1)
    inputs = torch.randn(64, 2, 6, 6)
    before = {name: tensor.clone() for name, tensor in dense.state_dict().items()}
    first = error(student, dense, inputs)
    history = podar.distill(student, dense, inputs, epochs=25, lr=0.02, **PLAIN)
    assert error(student, dense, inputs) < 0.4 * first
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert dense.training and student.training, "modes are kept"
    assert all(torch.equal(tensor, before[name]) for name, tensor in dense.state_dict().items())


def test_a_pruned_model_comes_nearer_to_the_dense_one() -> None:
    dense, inputs = Net(16, WRAPS["a map"]), torch.randn(64, 2, 6, 6)
    podar.recover.recalibrate(dense, inputs)  # as that of a trained network
    pruned = copy.deepcopy(dense)
    podar.prune(pruned, inputs[:1], "channels=0.5")
    first = error(pruned, dense, inputs)
    podar.distill(pruned, dense, [inputs[:32], inputs[32:]], epochs=20, lr=0.01, **PLAIN)
    assert error(pruned, dense, inputs) < 0.7 * first


@pytest.mark.parametrize("targets", [torch.rand(64, 1), torch.rand(64, 4), torch.zeros(64, 6, 6).long()])
def test_targets_that_are_no_classes_are_not_looked_at(targets: Tensor) -> None:
    dense, inputs = Net(16, WRAPS["a map"]), torch.randn(64, 2, 6, 6)
    found = []
    for data in ([inputs], [(inputs, targets)]):
        student = Net(8, WRAPS["a map"], seed=1)
        podar.distill(student, dense, data, epochs=2, **PLAIN)
        found.append(student.out.weight)
    assert torch.equal(*found)


def test_inputs_in_a_dict_and_batches_of_one_sample() -> None:
    dense, student, inputs = Net(16, WRAPS["a map"]), Net(8, WRAPS["a map"], seed=1), torch.randn(8, 2, 6, 6)
    first = error(student, dense, inputs)
    podar.distill(student, dense, [{"x": one[None]} for one in inputs], epochs=10, lr=0.01, **PLAIN)
    assert error(student, dense, inputs) < first


@pytest.mark.parametrize("fits", [True, False])
def test_batch_norms_train_unless_that_leads_away(fits: bool) -> None:
    """The dense model's statistics are those of the inputs, or others, which the student has too."""
    inputs = 3 + 2 * torch.randn(64, 2, 6, 6)
    dense, student = Net(16, WRAPS["a map"]), Net(16, WRAPS["a map"])
    if fits:
        podar.recover.recalibrate(dense, inputs)
    student.load_state_dict(dense.state_dict())
    with torch.no_grad():
        student.stem.weight.mul_(0.8)
    before = {name: tensor.clone() for name, tensor in student.norm.named_buffers()}
    first = error(student, dense, inputs)
    podar.distill(student, dense, inputs, epochs=3, **PLAIN)
    assert error(student, dense, inputs) < first
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.norm.named_buffers()) != fits


def test_columns_of_any_size_count_alike() -> None:
    scale = torch.tensor([1.0, 1e3, 1e-3, 0.0])
    dense = Net(16, lambda y: y.mean((2, 3)) * scale + 5).eval()
    inputs = torch.randn(64, 2, 6, 6)
    objective = Matching(dense, None)
    objective.check(Net(8, dense.wrap), iter([Batch(inputs)]), None)
    with torch.no_grad():
        spread = dense(inputs).double().var(0, correction=0)
    torch.testing.assert_close(objective.spreads[""][:3].double(), spread[:3], rtol=1e-3, atol=0)
    assert objective.spreads[""][3] > 0, "a column that never moves is measured by the others"


class Named(nn.Module):
    def __init__(self, name: str) -> None:
        super().__init__()
        self.inner, self.name = nn.Linear(4, 3), name

    def forward(self, x: Tensor) -> Any:
        return {self.name: self.inner(x)}


@pytest.mark.parametrize(
    ("name", "targets", "answers", "expected"),
    [
        ("logits", None, None, True),
        ("logits", torch.rand(8, 3) * 5, None, False),
        ("logits", None, "values", False),
        ("values", None, None, False),
        ("values", None, "logits", True),
    ],
)
def test_what_counts_as_logits(name: str, targets: Any, answers: str | None, expected: bool) -> None:
    """Logits that differ by a number a sample are the same distribution, and other values."""
    dense, student = Named(name), Named(name)
    student.load_state_dict(dense.state_dict())
    with torch.no_grad():
        student.inner.bias.add_(1)
    batch = Batch(torch.rand(8, 4), targets)
    objective = Matching(dense, answers)
    objective.check(student, iter([batch]), None)
    assert (float(objective.loss(student, batch)[0].detach()) < 1e-5) == expected


@pytest.mark.parametrize(
    ("wrap", "message"),
    [
        (
            lambda y: y[:, :3],
            r"the teacher answers with the shape \(32, 4, 6, 6\) and the student with \(32, 3",
        ),
        (lambda y: (y, y), "the output .* alone: both must answer in the same form"),
        (lambda y: y.argmax(1), "returns no tensor of values"),
        (lambda y: y.detach(), "no output of the student depends on a weight"),
    ],
)
def test_outputs_that_cannot_be_matched_are_refused_in_one_sentence(wrap: Any, message: str) -> None:
    student = Net(8, wrap, seed=1)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    with pytest.raises(PodarError, match=message) as found:
        podar.distill(student, Net(16, WRAPS["a map"]), torch.randn(64, 2, 6, 6), epochs=1, **PLAIN)
    assert "\n" not in str(found.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


def test_options_of_distilling_that_make_no_sense() -> None:
    dense, student, inputs = Net(4, WRAPS["a map"]), Net(4, WRAPS["a map"]), torch.randn(8, 2, 6, 6)
    with pytest.raises(UsageError, match="answers='probabilities'"):
        podar.distill(student, dense, inputs, answers="probabilities")
    with pytest.raises(UsageError, match="loss= is not for podar.distill"):
        podar.distill(student, dense, inputs, loss=nn.functional.mse_loss)
    with pytest.raises(UsageError, match="read again"):
        podar.distill(student, dense, iter([inputs]))
    with pytest.raises(PodarError, match="NaN or infinite"):
        podar.distill(student, dense, [inputs * float("nan")])
