"""Each group's curve: true to a cut of this group alone, better once its readers are solved, and the model stays."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.model.drift import moved
from podar.pruning.group_curves import Sensitivity


def network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 24, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 5),
    ).eval()  # fmt: skip


X = torch.randn(96, 3, 10, 10, generator=torch.Generator().manual_seed(0))


def test_it_is_the_error_of_a_cut_of_this_group_alone() -> None:
    model = network()
    before = copy.deepcopy(model.state_dict())
    found = podar.sensitivity(model, X, fractions=(0.5,), importance="magnitude", samples=96)
    assert [(group.name, group.size, group.cuts[0].units) for group in found.groups] == [("0", 16, 8), ("3", 24, 12)]
    for group in found.groups:
        cut = copy.deepcopy(model)
        result = podar.prune(cut, X[:1], ratios={group.name: 0.5}, importance="magnitude")
        assert group.cuts[0].plain == pytest.approx(moved(model, cut, X), rel=1e-4)
        assert group.cuts[0].macs == pytest.approx(result.after.macs / result.before.macs)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_solved_readers_lose_less_and_less_is_lost_where_more_stays() -> None:
    found = podar.sensitivity(network(), X)
    for group in found.groups:
        errors = [cut.compensated for cut in group.cuts]
        assert group.left is None and [cut.kept for cut in group.cuts] == [0.75, 0.5, 0.25]
        assert all(c is not None and c < cut.plain for c, cut in zip(errors, group.cuts))
        assert errors == sorted(errors, key=lambda error: error or 0.0)


@pytest.mark.parametrize("bias", [True, False])
def test_a_unit_that_is_there_twice_costs_nothing(bias: bool) -> None:
    first = nn.Linear(6, 8)
    with torch.no_grad():
        first.weight[4:], first.bias[4:] = first.weight[:4], first.bias[:4]
    model = nn.Sequential(first, nn.Tanh(), nn.Linear(8, 3, bias=bias)).double().eval()
    found = podar.sensitivity(model, torch.randn(200, 6).double(), fractions=(0.5,))
    assert found.groups[0].cuts[0].plain > 0.1
    assert found.groups[0].cuts[0].error < 0.02  # a ridge of a thousandth is left


def test_labels_give_accuracy_and_other_samples_may_judge() -> None:
    model, labels = network(), torch.arange(96) % 5
    found = podar.sensitivity(model, X, test=[(X[:40], labels[:40]), (X[40:], labels[40:])], samples=50)
    right = int((model(X[:50]).argmax(1) == labels[:50]).sum())
    assert found.samples == 50 and found.accuracy == pytest.approx(right / 50)
    assert all(cut.accuracy is not None and cut.plain_accuracy is not None for g in found.groups for cut in g.cuts)
    assert podar.sensitivity(model, X).accuracy is None


def test_what_is_held_at_once_changes_nothing() -> None:
    model = network()
    assert podar.sensitivity(model, X, memory=700_000).groups == podar.sensitivity(model, X).groups
    little = podar.sensitivity(model, X, memory=1)
    assert all("memory allows 1" in (group.left or "") for group in little.groups)
    assert all(cut.compensated is None for group in little.groups for cut in group.cuts)


class Branches(nn.Module):
    """A residual stream with several readers, a depthwise convolution, and attention."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 1)
        self.depthwise = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.point = nn.Conv2d(16, 16, 1)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.point(self.depthwise(x).relu())
        tokens = x.flatten(2).transpose(1, 2)
        tokens = tokens + self.attention(tokens, tokens, tokens)[0]
        return self.head(tokens.mean(1))


def test_streams_and_attention() -> None:
    found = podar.sensitivity(Branches().eval(), X[:48])
    assert [(group.name, group.tied) for group in found.groups] == [("stem", ("attention heads",))]
    for cut in found.groups[0].cuts:
        assert cut.compensated is not None and cut.compensated < cut.plain


def test_a_table_and_plain_data() -> None:
    found = podar.sensitivity(network(), iter([X[:48], X[48:]]), fractions=(0.25, 0.5))
    text = str(found)
    assert "50 %" in text and "16 channels" in text and "on 96 samples" in text
    assert text.index("50 %") < text.index("25 %")
    stored = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert stored["groups"][0]["cuts"][0]["kept"] == 0.5
    broken = Sensitivity(found.groups, 1, float("nan"))
    assert broken.to_json()["accuracy"] is None


def test_a_group_of_two_has_one_cut() -> None:
    model = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 3)).eval()
    found = podar.sensitivity(model, torch.randn(50, 4))
    assert [cut.units for cut in found.groups[0].cuts] == [1]


def test_every_told_step() -> None:
    told: list[tuple[int, int]] = []
    podar.sensitivity(network(), X, progress=lambda stage, done, total, info: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"fractions": ()}, "no fractions"),
        ({"fractions": (0.5, 1)}, "fraction 1"),
        ({"fractions": (0,)}, "fraction 0"),
        ({"fractions": (0.5, 0.5)}, "twice"),
        ({"samples": 0}, "samples is 0"),
        ({"memory": 0}, "memory is 0"),
        ({"importance": "magnitud"}, "did you mean 'magnitude'"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        podar.sensitivity(network(), X, **options)  # pyright: ignore[reportArgumentType]


def _none() -> Iterator[Tensor]:
    yield from ()


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (X.clone().fill_(float("nan")), "not finite|NaN"),
        (torch.randn(8, 4, 10, 10), "does not run|channels"),
        (_none(), "without a single batch"),
    ],
)
def test_inputs_that_do_not_fit(inputs: object, said: str) -> None:
    with pytest.raises(PodarError, match=said):
        podar.sensitivity(network(), inputs)


def test_nothing_to_cut_and_nothing_to_compare() -> None:
    with pytest.raises(PodarError, match="nothing of this model can be cut"):
        podar.sensitivity(nn.Sequential(nn.Linear(4, 3)).eval(), torch.randn(8, 4))
    last = nn.Linear(6, 3, bias=False)
    nn.init.zeros_(last.weight)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), last).eval()
    with pytest.raises(PodarError, match="all zero"):
        podar.sensitivity(model, torch.randn(8, 4))
