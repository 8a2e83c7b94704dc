"""First-order Taylor: what the formula says, on any loss, with the model left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.criteria import score
from podar.errors import PodarError

X = torch.zeros(1, 4)


def network() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


BATCHES = [(torch.randn(16, 4, generator=torch.Generator().manual_seed(k)), torch.arange(16) % 3) for k in range(3)]


def test_taylor_sums_weight_times_gradient_over_batches() -> None:
    model = network()
    wanted = {n: torch.zeros_like(p) for n, p in model.named_parameters()}
    for inputs, targets in BATCHES:
        loss = nn.functional.cross_entropy(model(inputs), targets)
        for (n, p), g in zip(model.named_parameters(), torch.autograd.grad(loss, list(model.parameters()))):
            wanted[n] += (p.detach() * g).abs()
    found = score("taylor", model, BATCHES)
    assert all(torch.allclose(found[n], wanted[n], atol=1e-6) for n in wanted)


def test_a_loss_of_the_users_own() -> None:
    targets = [(x, torch.zeros(16, 3)) for x, _ in BATCHES]
    found = score("taylor", network(), targets, nn.functional.mse_loss)
    assert found["0.weight"].abs().sum() > 0


def test_units_without_effect_go_first() -> None:
    model = network()
    with torch.no_grad():
        model[2].weight[:, [1, 4]] = 0  # their outputs are not read, though their own weights are large
        model[0].weight[[1, 4]] *= 50
    by_weight = podar.prune(network(), X, "channels=0.75", scope="local")
    result = podar.prune(model, X, "channels=0.75", scope="local", importance="taylor", data=BATCHES)
    assert result.removed["0.bias"][0].tolist() == [1, 4]
    assert by_weight.removed["0.bias"][0].tolist() != [1, 4]


@pytest.mark.parametrize("frozen", [False, True])
def test_the_model_is_left_as_it_was(frozen: bool) -> None:
    model = nn.Sequential(network(), nn.BatchNorm1d(3), nn.Dropout(0.5)).train()
    model.requires_grad_(not frozen)
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    score("taylor", model, BATCHES)
    assert model.training and all(p.requires_grad is not frozen for p in model.parameters())
    assert all(p.grad is not None and bool((p.grad == 1).all()) for p in model.parameters())
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())


@pytest.mark.parametrize(
    ("data", "said"),
    [(None, "needs data"), ([], "without a single batch"), ([torch.zeros(2, 4)], "needs \\(inputs, targets\\)")],
)
def test_data_that_cannot_be_used_are_named(data: Any, said: str) -> None:
    model = network()
    with pytest.raises(PodarError, match=said):
        podar.prune(model, X, "channels=0.5", importance="taylor", data=data)
    assert model[0].out_features == 8


def test_data_sets_of_samples_are_batched() -> None:
    samples = torch.utils.data.TensorDataset(torch.randn(70, 4), torch.arange(70) % 3)
    assert score("taylor", network(), samples)["0.weight"].shape == (8, 4)


class TwoInputs(nn.Module):
    """Takes an image's features and a state, gives two answers."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        hidden = torch.relu(self.first(x) + state)
        return self.second(hidden), hidden


def both(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
    answer, hidden = outputs
    labels, wanted = targets
    return nn.functional.cross_entropy(answer, labels) + (hidden - wanted).square().mean()


@pytest.mark.parametrize("name", ["taylor", "snip", "grasp", "fisher"])
@pytest.mark.parametrize("kind", [tuple, list])
def test_inputs_and_targets_may_be_several(name: str, kind: type) -> None:
    model, labels = TwoInputs(), torch.tensor([0, 1, 2, 0])
    x, state, wanted = torch.randn(4, 4), torch.randn(4, 6), torch.randn(4, 6)
    found = score(name, model, [(kind([x, state]), kind([labels, wanted]))], both)
    assert found["first.weight"].shape == (6, 4) and bool(found["second.weight"].abs().sum() > 0)
    named = score(name, model, [({"x": x, "state": state}, (labels, wanted))], both)
    for parameter, values in found.items():
        torch.testing.assert_close(named[parameter], values)


@pytest.mark.parametrize("name", ["wanda", "synflow"])
def test_criteria_without_labels_do_not_take_a_state_for_labels(name: str) -> None:
    model = TwoInputs()
    x, state = torch.randn(4, 4), torch.randn(4, 6)
    plain = score(name, model, [(x, state)])
    labelled = score(name, model, [((x, state), torch.zeros(4))])
    for parameter, values in plain.items():
        torch.testing.assert_close(labelled[parameter], values)


def test_tuple_targets_without_a_loss_are_refused_in_a_sentence() -> None:
    x, state = torch.randn(4, 4), torch.randn(4, 6)
    with pytest.raises(PodarError, match="targets of the kind tuple have no cross entropy: give loss="):
        score("taylor", TwoInputs(), [((x, state), (x, x))])


@pytest.mark.parametrize("wrap", [lambda y: (y, y * 2), lambda y: {"other": y[:, :1, None], "logits": y}])
def test_the_default_loss_finds_the_logits(wrap: Any) -> None:
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Any:
            return wrap(self.layer(x))

    x, labels = torch.randn(4, 4), torch.tensor([0, 1, 2, 0])
    model = Wrapped()
    expected = score("taylor", model.layer, [(x, labels)])
    torch.testing.assert_close(score("taylor", model, [(x, labels)])["layer.weight"], expected["weight"])
