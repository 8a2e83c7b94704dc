"""One scorer contract: every criterion serves prune and sparsify, leaves the model as it was, and says bad data."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.criteria import CRITERIA, score
from podar.errors import PodarError, UsageError

X = torch.randn(48, 3, 8, 8, generator=torch.Generator().manual_seed(0))
DATA = [(X[:24], torch.arange(24) % 4), (X[24:], torch.arange(24) % 4)]
NEED_LABELS = ("taylor", "snip", "grasp", "fisher")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4),
    )  # fmt: skip


def state(model: nn.Module) -> dict[str, Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_every_criterion_serves_both_verbs(name: str) -> None:
    cut = podar.prune(network(), X[:1], "channels=0.5", importance=name, data=DATA)
    assert cut.after.params < cut.before.params
    if name == "bn-scale":  # scores norms, which are no weights
        with pytest.raises(PodarError, match="no score"):
            podar.sparsify(network(), 0.8, importance=name, data=DATA)
        return
    model = network()
    assert podar.sparsify(model, 0.8, importance=name, data=DATA).fraction == pytest.approx(0.8, abs=0.001)
    model.train()(X).sum().backward()


@pytest.mark.parametrize("name", sorted(CRITERIA))
def test_a_criterion_leaves_the_model_as_it_was(name: str) -> None:
    model = network().train()
    model.get_parameter("0.weight").requires_grad_(False)
    before = state(model)
    scores = score(name, model, DATA)
    for key, values in scores.items():
        assert values.shape == model.get_parameter(key).shape and bool(torch.isfinite(values).all()), key
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert all(m.training for m in model.modules())
    assert not model.get_parameter("0.weight").requires_grad and model.get_parameter("3.weight").requires_grad
    assert all(p.grad is None for p in model.parameters())


def test_a_criterion_written_once_serves_both() -> None:
    def nearest_to_one(model: nn.Module, data: object, loss: object) -> dict[str, Tensor]:
        return {n: -(p.detach() - 1).abs() for n, p in model.named_parameters()}

    podar.prune(network(), X[:1], "channels=0.5", importance=nearest_to_one)
    model = network()
    podar.sparsify(model, 0.5, importance=nearest_to_one, scope="local")
    kept = model.get_submodule("0").get_buffer("weight_mask").bool()
    weight = model.get_submodule("0").get_parameter("weight_orig")
    assert (weight[kept] - 1).abs().max() <= (weight[~kept] - 1).abs().min()


def test_scores_are_what_their_papers_say() -> None:
    """By hand on one linear layer with a squared loss."""
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.data = torch.tensor([[3.0, -1.0]])
    x, y = torch.tensor([[1.0, 2.0], [2.0, 0.0]]), torch.tensor([[0.0], [0.0]])

    def loss(output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * (output - target).square().sum()

    # outputs 1 and 6; gradients of the samples (1, 2) and (12, 0), together (13, 2)
    data = [(x, y)]
    assert torch.allclose(score("snip", layer, data, loss)["weight"], torch.tensor([[39.0, 2.0]]))
    assert torch.allclose(score("taylor", layer, data, loss)["weight"], torch.tensor([[39.0, 2.0]]))
    assert torch.allclose(score("fisher", layer, data, loss)["weight"], 0.5 * torch.tensor([[9 * 145 / 2, 4 / 2]]))
    # Hessian xᵀx = [[5, 2], [2, 4]]; times the gradient (69, 34)
    assert torch.allclose(score("grasp", layer, data, loss)["weight"], torch.tensor([[207.0, -34.0]]))
    assert torch.allclose(score("wanda", layer, x)["weight"], torch.tensor([[3 * math.sqrt(5), 2.0]]))
    assert torch.allclose(score("lamp", layer)["weight"], torch.tensor([[1.0, 0.1]]))
    assert torch.allclose(score("synflow", layer, x)["weight"].float(), torch.tensor([[3.0, 1.0]]))


@pytest.mark.parametrize("name", [*NEED_LABELS, "wanda", "synflow"])
@pytest.mark.parametrize("verb", ["sparsify", "prune"])
def test_bad_calibration_data_are_one_sentence_and_change_nothing(name: str, verb: str) -> None:
    hurt = X.clone()
    hurt[3, 0, 0, 0] = torch.nan
    wrong = torch.randn(8, 5, 8, 8)
    labels = torch.arange(8) % 4
    cases: list[object] = [None, [], [(wrong, labels)]]
    if name != "synflow":  # reads the shape alone
        cases.append([(hurt[:8], labels)])
    for data in cases:
        model = network()
        before = state(model)
        with pytest.raises(PodarError) as caught:
            if verb == "sparsify":
                podar.sparsify(model, 0.5, importance=name, data=data)
            else:
                podar.prune(model, X[:1], "channels=0.5", importance=name, data=data)
        assert "\n" not in str(caught.value)
        assert state(model).keys() == before.keys()
        assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


def test_an_unknown_criterion_names_the_nearest() -> None:
    for call in (
        lambda: podar.sparsify(network(), 0.5, importance="tailor"),
        lambda: podar.prune(network(), X[:1], "channels=0.5", importance="tailor"),
    ):
        with pytest.raises(UsageError, match="taylor"):
            call()
