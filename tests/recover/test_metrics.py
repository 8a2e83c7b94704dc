"""Metrics: torchmetrics and functions, on validation or training data, in every epoch of the History."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.data import Dataset
from podar.errors import PodarError, UsageError
from podar.recover.metrics import Metrics

PLAIN: dict[str, Any] = {"precision": "fp32", "batch_size": 16, "epochs": 2}
CPU = torch.device("cpu")
X = torch.rand(32, 4, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)


def mae(outputs: Tensor, targets: Tensor) -> float:
    return float((outputs - targets).abs().mean())


def linear() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(4, 1)


def test_torchmetrics_and_functions_say_the_same() -> None:
    podar.import_torchvision()  # torchmetrics imports it
    from torchmetrics import MeanAbsoluteError, MetricCollection

    batches = [(X[:20], Y[:20]), (X[20:], Y[20:])]
    metrics = {"ours": mae, "theirs": MeanAbsoluteError(), "many": MetricCollection({"in_one": MeanAbsoluteError()})}
    history = podar.finetune(linear(), batches, loss=functional.mse_loss, metrics=metrics, **PLAIN)
    for epoch in history.epochs:
        assert epoch["ours"] == pytest.approx(epoch["theirs"]) == pytest.approx(epoch["in_one"])
    assert history.epochs[1]["ours"] < history.epochs[0]["ours"]


def test_a_validation_part_is_what_is_measured() -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.Dropout(0.5))
    data = {"train": [(X, Y)], "validation": [(X[:8], Y[:8]), (X[8:12], Y[8:12])]}
    history = podar.finetune(model, data, loss=functional.mse_loss, metrics=[mae], **PLAIN)
    assert history.epochs[-1]["mae"] == pytest.approx(mae(model.eval()(X[:12]).detach(), Y[:12]))


def test_a_classifier_has_metrics_beside_its_accuracy(data: Dataset, model: nn.Module) -> None:
    def right(outputs: Tensor, targets: Tensor) -> float:
        return float((outputs.argmax(1) == targets).float().mean())

    for epoch in podar.finetune(model, data, metrics=right, **PLAIN).epochs:
        assert epoch["right"] == pytest.approx(epoch["val_accuracy"])


def test_pictures_with_a_loss_of_ones_own_are_validated_by_metrics(data: Dataset, model: nn.Module) -> None:
    options: dict[str, Any] = {"loss": functional.cross_entropy, **PLAIN}
    assert "val_accuracy" not in podar.finetune(model, data, **options).epochs[0]
    entry = podar.finetune(model, data, metrics={"ce": functional.cross_entropy}, **options).epochs[0]
    assert "val_accuracy" not in entry and entry["ce"] > 0


def test_what_evaluate_says_stands_in_every_epoch() -> None:
    modes: list[bool] = []

    def evaluate(model: nn.Module) -> float:
        modes.append(model.training)
        return float(model(X).mean())

    options: dict[str, Any] = {"loss": functional.mse_loss, **PLAIN}
    history = podar.finetune(linear(), [(X, Y)], evaluate=evaluate, **options)
    assert len(history.epochs) == 2 and all("evaluation" in epoch for epoch in history.epochs) and not any(modes)
    history = podar.finetune(linear(), [(X, Y)], evaluate=lambda model: {"a": 1, "b": torch.tensor(2.0)}, **options)
    assert (history.epochs[0]["a"], history.epochs[0]["b"]) == (1.0, 2.0)
    with pytest.raises(PodarError, match="evaluate= gives a str, and a number"):
        podar.finetune(linear(), [(X, Y)], evaluate=lambda model: "good", **options)  # pyright: ignore[reportArgumentType]


def test_outputs_of_transformers_have_metrics_too() -> None:
    from transformers.modeling_outputs import BaseModelOutput

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = linear()

        def forward(self, x: Tensor) -> BaseModelOutput:
            return BaseModelOutput(last_hidden_state=self.inner(x))  # pyright: ignore[reportArgumentType]

    history = podar.finetune(
        Model(), [(X, Y)], loss=lambda o, t: functional.mse_loss(o.last_hidden_state, t),
        metrics={"mae": lambda o, t: mae(o.last_hidden_state, t)}, **PLAIN,
    )  # fmt: skip
    assert history.epochs[1]["mae"] < history.epochs[0]["mae"]


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda o, t: (o - t).abs(), r"the metric m gives the shape \(32, 1\)"),
        (lambda o, t: o @ t, r"the metric m cannot be computed from outputs \(32, 1\) and targets \(32, 1\)"),
        (lambda o, t: functional.mse_loss(o, t[:, 0]), "the metric m cannot be computed"),
        (lambda o, t: "good", "the metric m gives a str"),
    ],
)
def test_metrics_of_another_shape_are_refused_before_anything_is_trained(metric: Any, message: str) -> None:
    model = linear()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PodarError, match=message) as error:
        podar.finetune(model, [(X, Y)], loss=functional.mse_loss, metrics={"m": metric}, **PLAIN)
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("rmse", "is no metric"),
        ([3], "is no metric"),
        ([mae, mae], "two numbers of an epoch would be called 'mae'"),
        ({"loss": mae}, "two numbers of an epoch would be called 'loss'"),
    ],
)
def test_what_is_no_metric(given: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Metrics(given, CPU)
