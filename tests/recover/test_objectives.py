"""Any task: a loss of one's own or the model's, batches of any form, and one sentence for what does not fit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.errors import PodarError, UsageError

PLAIN: dict[str, Any] = {"precision": "fp32", "batch_size": 32}


def points(count: int = 64) -> tuple[Tensor, Tensor]:
    x = torch.rand(count, 4, generator=torch.Generator().manual_seed(0))
    return x, x.sum(1, keepdim=True)


class Regressor(nn.Module):
    """Four numbers to one; with `extra` outputs in a dict."""

    def __init__(self, extra: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.head, self.extra = nn.Linear(4, 8), nn.Linear(8, 1), extra

    def forward(self, x: Tensor) -> Any:
        """The sum of x, when it has learned it."""
        hidden = torch.relu(self.body(x))
        return {"value": self.head(hidden), "hidden": hidden} if self.extra else self.head(hidden)


class OwnLoss(Regressor):
    """A model that is given its targets and returns a loss, as those of transformers do."""

    def forward(self, x: Tensor, labels: Tensor | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Value and loss."""
        value = super().forward(x)
        return {"value": value, "loss": None if labels is None else functional.mse_loss(value, labels)}


class Samples(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return 64

    def __getitem__(self, place: int) -> Any:
        x, y = points()
        return {"x": x[place], "height": y[place]}


FORMS: dict[str, Any] = {
    "pairs": [points()],
    "arguments": [((points()[0],), points()[1])],
    "dicts": [{"x": points()[0], "height": points()[1]}],
    "pairs of dicts": [({"x": points()[0]}, points()[1])],
    "one dict": {"x": points()[0], "height": points()[1]},
    "samples": torch.utils.data.TensorDataset(*points()),
    "samples that are dicts": Samples(),
    "a loader": torch.utils.data.DataLoader(Samples(), 16),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_regressor_learns_from_batches_of_any_form(form: str) -> None:
    model = Regressor()
    history = podar.finetune(model, FORMS[form], loss=functional.mse_loss, epochs=20, lr=0.1, **PLAIN)
    losses = [epoch["loss"] for epoch in history.epochs]
    assert losses[-1] < 0.3 * losses[0] and "val_accuracy" not in history.epochs[0]


def test_several_outputs_go_to_the_loss_as_they_are() -> None:
    def loss(outputs: dict[str, Tensor], targets: Tensor) -> Tensor:
        return functional.mse_loss(outputs["value"], targets) + 1e-3 * outputs["hidden"].square().mean()

    history = podar.finetune(Regressor(extra=True), [points()], loss=loss, epochs=10, lr=0.1, **PLAIN)
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]


def test_several_targets_come_as_they_stand_in_the_batch() -> None:
    seen: list[Any] = []

    def loss(outputs: Tensor, targets: Any) -> Tensor:
        seen.append(targets)
        return outputs.square().mean()

    x, y = points(8)
    for batch in ((x, y, x), (x, (y, x)), {"x": x, "a": y, "b": x}, x):
        podar.finetune(Regressor(), [batch], loss=loss, epochs=1, **PLAIN)
        last = seen[-1]
        assert last is None if batch is x else len(last) == 2


@pytest.mark.parametrize(
    "batch",
    [
        {"x": points()[0], "labels": points()[1]},
        {"x": points()[0], "labels": points()[1], "row": torch.arange(64)},
        points(),
    ],
    ids=["dict", "dict with more", "pair"],
)
def test_the_models_own_loss(batch: Any) -> None:
    history = podar.finetune(
        OwnLoss(), [batch], loss="model", epochs=10, lr=0.1,
        metrics={"mse": lambda outputs, targets: functional.mse_loss(outputs["value"], points()[1])}, **PLAIN,
    )  # fmt: skip
    assert history.epochs[-1]["loss"] < history.epochs[0]["loss"]
    assert history.epochs[0]["mse"] == pytest.approx(history.epochs[0]["loss"])


def test_a_loss_of_many_parts_is_their_sum() -> None:
    class Detector(Regressor):
        def forward(self, x: Tensor, boxes: Tensor) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
            found = super().forward(x)
            return {"loss_box": functional.mse_loss(found, boxes), "loss_size": found.square().mean()}

    model = Detector()
    with torch.no_grad():
        expected = float(sum(model(*points()).values()))
    history = podar.finetune(model, [points()], loss="model", epochs=1, **PLAIN)
    assert history.epochs[0]["loss"] == pytest.approx(expected)


def test_a_segmentation_net_learns_masks() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 2, 1))
    images = torch.rand(32, 1, 12, 12)
    masks = (images[:, 0] > 0.5).long()

    def mean_iou(outputs: Tensor, targets: Tensor) -> float:
        found = outputs.argmax(1)
        both = [((found == k) & (targets == k)).sum() / ((found == k) | (targets == k)).sum() for k in (0, 1)]
        return float(torch.stack(both).mean())

    history = podar.finetune(
        net, [(images[:16], masks[:16]), (images[16:], masks[16:])], loss=functional.cross_entropy, epochs=12,
        metrics=mean_iou, lr=0.2, **PLAIN,
    )  # fmt: skip
    assert history.epochs[-1]["mean_iou"] > max(0.8, history.epochs[0]["mean_iou"])


def test_several_batches_make_one_step_of_the_same_gradient() -> None:
    x, y = points()
    whole, parts = Regressor(), Regressor()
    steps: list[int] = []
    options: dict[str, Any] = {"loss": functional.mse_loss, "epochs": 2, "lr": 0.1, **PLAIN}
    podar.finetune(whole, [(x[:32], y[:32]), (x[32:], y[32:])], **options)
    quarters = [(x[k : k + 16], y[k : k + 16]) for k in range(0, 64, 16)]
    podar.finetune(parts, quarters, accumulate=2, after_step=lambda done, total: steps.append(total), **options)
    assert steps == [4] * 4
    for one, other in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(one, other)
    with pytest.raises(UsageError, match="accumulate=0"):
        podar.finetune(whole, quarters, accumulate=0, **options)


def wants_weights(outputs: Tensor, targets: Any) -> Tensor:
    return (targets["weights"] * outputs).mean()


@pytest.mark.parametrize(
    ("data", "loss", "message"),
    [
        ([points()], wants_weights, r"the loss cannot be computed from outputs \(64, 1\) and targets \(64, 1\)"),
        ([points()[0]], functional.mse_loss, "the batches hold no targets: give"),
        ([points()], lambda o, t: (o - t).square(), r"gives a tensor of the shape \(64, 1\).*take its mean"),
        ([points()], lambda o, t: 3.0, "gives a float, and a training needs a tensor"),
        ([points()], nn.MSELoss, "the loss gives a MSELoss|the loss cannot be computed"),
        ([points()], lambda o, t: t.mean(), "does not depend on any weight"),
        ([(points()[0], points()[1][:, 0])], functional.mse_loss, r"outputs \(64, 1\) and targets \(64,\)"),
        ([points()], "model", r"needs a model that returns a .loss|does not run on a batch"),
        ([points()[0]], "model", r"needs a model that returns a .loss, and it returns \(64, 1\)"),
        ([{"a": points()[0], "b": points()[1]}], functional.mse_loss, "the model does not run on a batch"),
        ([points()], "mse", "loss='mse' is no loss"),
    ],
)
def test_a_loss_that_cannot_be_is_refused_in_one_sentence_and_the_model_is_left(
    data: Any, loss: Any, message: str
) -> None:
    model = nn.Sequential(nn.Linear(4, 1), nn.BatchNorm1d(1))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PodarError, match=message) as error:
        podar.finetune(model, data, loss=loss, epochs=1, **PLAIN)
    assert "\n" not in str(error.value)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_teacher_beside_a_loss_is_refused() -> None:
    with pytest.raises(UsageError, match="a teacher teaches classifiers"):
        podar.finetune(Regressor(), [points()], loss=functional.mse_loss, teacher=Regressor())


def test_float_targets_without_a_loss_are_refused_with_what_to_give() -> None:
    with pytest.raises(PodarError, match="needs targets that are classes.* give loss=, a function of"):
        podar.finetune(Regressor(), [points()], epochs=1, **PLAIN)
    with pytest.raises(PodarError, match="no classifier.* give loss="):
        podar.finetune(nn.Conv2d(1, 2, 1), [(torch.rand(4, 1, 3, 3), torch.zeros(4).long())], epochs=1, **PLAIN)


def test_targets_that_are_not_finite_are_named() -> None:
    x, y = points()
    with pytest.raises(PodarError, match="the loss is nan; its targets hold NaN or infinite values: drop"):
        podar.finetune(Regressor(), [(x, y / 0 * 0)], loss=functional.mse_loss, epochs=1, **PLAIN)


def test_a_gradient_that_is_not_finite_never_reaches_the_weights() -> None:
    model = Regressor()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(PodarError, match="the gradient is not finite.*as it was before the training"):
        podar.finetune(model, [points()], loss=lambda o, t: (o - o).abs().sqrt().mean(), epochs=1, **PLAIN)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
