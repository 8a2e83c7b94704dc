"""How much goes where: targets, scopes, ratios, protection, multiples; each against counting by hand."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import podar
from podar.allocate import Target, parse_target
from podar.errors import PodarError, UsageError

IMAGES = torch.zeros(1, 3, 8, 8)


def stack(*widths: int, act: type[nn.Module] = nn.ReLU) -> Any:
    layers: list[nn.Module] = []
    for a, b in zip((3, *widths), widths):
        layers += [nn.Conv2d(a, b, 3, padding=1), act()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 5)).eval()


def widths(model: nn.Module) -> list[int]:
    return [m.out_channels for m in model.modules() if isinstance(m, nn.Conv2d)]


# Targets


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("macs=0.5", Target("macs", 0.5)),
        (" params = 0.25 ", Target("params", 0.25)),
        ({"macs": 0.5}, Target("macs", 0.5)),
        ({"params": "2M"}, Target("params", 2e6, True)),
        ("params=2M", Target("params", 2e6, True)),
        ("macs=1.5G", Target("macs", 1.5e9, True)),
        ("bytes=300kB", Target("bytes", 3e5, True)),
        ("memory=300MB", Target("memory", 3e8, True)),
        ("bytes=512b", Target("bytes", 512, True)),
        ("macs=5e-1", Target("macs", 0.5)),
        ("channels=.5", Target("channels", 0.5)),
    ],
)
def test_targets_are_read(text: Any, wanted: Target) -> None:
    assert parse_target(text) == wanted


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("macs", "macs=0.5"),
        ("0.5", "macs=0.5"),
        ("mac=0.5", "did you mean 'macs'"),
        ("macs=", "not a number"),
        ("macs=nan", "not a number"),
        ("macs=inf", "not a number"),
        ("macs=half", "not a number"),
        ("macs=50%", "not a number"),
        ("macs=0", "between 0 and 1"),
        ("macs=-0.5", "not a number"),
        ("macs=2", "between 0 and 1"),
        ("macs=1.0", "nothing to do"),
        ("channels=2k", "as a fraction"),
        ("params=0M", "above 0"),
        ({"macs": 0.5, "params": 0.5}, "one target at a time"),
        ({}, "one target at a time"),
    ],
)
def test_targets_that_make_no_sense_say_why(text: Any, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_target(text)


# Channels


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=3), st.floats(0.05, 0.95))
def test_local_keeps_the_fraction_of_every_group_rounded_up(sizes: list[int], fraction: float) -> None:
    model = stack(*sizes)
    podar.prune(model, IMAGES, {"channels": fraction}, scope="local")
    assert widths(model) == [math.ceil(fraction * n - 1e-9) for n in sizes]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(2, 20), min_size=1, max_size=3), st.floats(0.05, 0.95), st.integers(0, 9))
def test_global_keeps_the_same_total_and_one_of_each(sizes: list[int], fraction: float, seed: int) -> None:
    torch.manual_seed(seed)
    model = stack(*sizes)
    podar.prune(model, IMAGES, {"channels": fraction}, scope="global")
    assert sum(widths(model)) == sum(math.ceil(fraction * n - 1e-9) for n in sizes)
    assert min(widths(model)) >= 1


def test_global_takes_from_where_it_matters_least() -> None:
    model = stack(8, 8)
    with torch.no_grad():
        model[2].weight[:6] *= 1e-3  # six channels of the second convolution do next to nothing
        model[2].bias[:6] = 0
        model[-1].weight[:, :6] *= 1e-3
    result = podar.prune(model, IMAGES, "channels=0.625", scope="global")
    assert result.removed["2.weight"][0].tolist() == [0, 1, 2, 3, 4, 5]
    assert widths(model) == [8, 2]


def test_isomorphic_compares_like_with_like() -> None:
    """Layers of one shape compete; a layer of another shape loses its own share whatever its scores are."""
    model = stack(16, 16, 16, 4)
    with torch.no_grad():
        model[6].weight *= 100
        model[2].weight[:12] *= 1e-3
    podar.prune(model, IMAGES, "channels=0.5", scope="isomorphic")
    assert widths(model)[3] in (2, 3)
    assert sum(widths(model)) == 26


# Budgets


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
@pytest.mark.parametrize("kind", ["macs", "params", "bytes", "memory"])
@pytest.mark.parametrize("fraction", [0.35, 0.7])
def test_a_budget_is_met_within_three_percent(kind: str, scope: str, fraction: float) -> None:
    model = stack(24, 40, 32)
    result = podar.prune(model, IMAGES, {kind: fraction}, scope=scope)
    name = "memory_bytes" if kind == "memory" else kind
    assert abs(getattr(result.after, name) / getattr(result.before, name) - fraction) <= 0.03


def test_an_absolute_budget_is_met() -> None:
    model = stack(24, 40, 32)
    before = podar.trace(model, IMAGES).cost()
    result = podar.prune(model, IMAGES, f"params={before.params * 0.6 / 1000:.3f}k")
    assert abs(result.after.params - 0.6 * before.params) <= 0.03 * before.params
    with pytest.raises(UsageError, match="nothing to do"):
        podar.prune(model, IMAGES, "params=100M")


def test_an_unreachable_budget_says_the_nearest_value_which_then_works() -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return stack(24, 16)

    with pytest.raises(PodarError, match="cannot be reached") as caught:
        podar.prune(build(), IMAGES, "macs=0.05", protect=["0"])
    found = re.search(r"nearest is macs=([0-9.]+) of dense", str(caught.value))
    assert found and "protected" in str(caught.value)
    result = podar.prune(build(), IMAGES, f"macs={found[1]}", protect=["0"])
    assert abs(result.after.macs / result.before.macs - float(found[1])) < 0.002


def test_everything_protected_is_said() -> None:
    with pytest.raises(PodarError, match=r"nearest is macs=1\.000"):
        podar.prune(stack(8, 8), IMAGES, "macs=0.5", protect=["*"])


# Ratios, protection, multiples


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 1.0), st.floats(0.2, 0.9))
def test_a_ratio_overrides_the_target_where_it_points(ratio: float, fraction: float) -> None:
    model = stack(12, 10, 14)
    podar.prune(model, IMAGES, {"channels": fraction}, scope="local", ratios={"2": ratio})
    kept = math.ceil(fraction * 12 - 1e-9), math.ceil(ratio * 10 - 1e-9), math.ceil(fraction * 14 - 1e-9)
    assert tuple(widths(model)) == kept


@pytest.mark.parametrize("scope", ["local", "global", "isomorphic"])
def test_a_budget_is_met_around_fixed_ratios(scope: str) -> None:
    model = stack(32, 32, 32)
    result = podar.prune(model, IMAGES, "macs=0.5", scope=scope, ratios={"2*": 0.75})
    assert widths(model)[1] == 24 and abs(result.after.macs / result.before.macs - 0.5) <= 0.03


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"ratios": {"9": 0.5}}, "ratios names '9', which no group matches"),
        ({"ratios": {"0": 0}}, "above 0"),
        ({"ratios": {"0": 1.5}}, "at most 1"),
        ({"ratios": {"0": "half"}}, "fraction kept"),
        ({"protect": ["nothing"]}, "protect names 'nothing', which no layer matches"),
        ({"scope": "globl"}, "global, local, isomorphic"),
        ({"multiple_of": 0}, "at least 1"),
        ({"multiple_of": 2.5}, "whole number"),
    ],
)
def test_options_that_make_no_sense_say_why_and_change_nothing(options: dict[str, Any], said: str) -> None:
    model = stack(8, 8)
    with pytest.raises(UsageError, match=said):
        podar.prune(model, IMAGES, "channels=0.5", **options)
    assert widths(model) == [8, 8] and "podar_plan" not in model.__dict__


@pytest.mark.parametrize("pattern", ["2", "2.*", "2.weight", "[2]"])
def test_protected_layers_keep_every_slice(pattern: str) -> None:
    model = stack(8, 8, 8)
    podar.prune(model, IMAGES, "channels=0.5", scope="local", protect=[pattern])
    assert tuple(model[2].weight.shape) == (8, 8, 3, 3) and widths(model) == [8, 8, 4]


@settings(max_examples=20, deadline=None)
@given(st.sampled_from([2, 3, 4, 8]), st.floats(0.3, 0.9), st.sampled_from(["local", "global"]))
def test_widths_are_multiples_or_left_alone(multiple: int, fraction: float, scope: str) -> None:
    model = stack(24, 13, 16)
    podar.prune(model, IMAGES, {"channels": fraction}, scope=scope, multiple_of=multiple)
    assert all(now % multiple == 0 or now == was for now, was in zip(widths(model), (24, 13, 16)))


def test_a_plan_without_scores_or_model_still_keeps_its_budget() -> None:
    graph = podar.trace(stack(16, 16), IMAGES)
    plan = podar.plan(graph, "macs=0.5")
    assert abs(graph.cost(plan).macs / graph.cost().macs - 0.5) <= 0.03


def test_groups_tied_in_number_lose_the_same_share() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 24, 1), nn.Conv2d(12, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = self.a(x).chunk(2, 1)
            return self.b(left * right.sigmoid())

    model = Halves().eval()
    with torch.no_grad():
        model.a.weight[:12] *= torch.linspace(0.1, 2, 12)[:, None, None, None]
    result = podar.prune(model, IMAGES, "channels=0.5", scope="global")
    gone = result.removed_mask("a.bias").view(2, 12)
    assert gone.sum(1).tolist() == [6, 6] and torch.equal(gone[0], gone[1])


@pytest.mark.parametrize("share", [0.4, 0.5, 0.6, 0.7])
def test_where_one_move_costs_much_the_fine_ones_beside_it_meet_the_target(share: float) -> None:
    """Two heads carry the width of the whole encoder; hidden units of the feed-forward layers go one by one."""
    torch.manual_seed(0)
    layers = [nn.TransformerEncoderLayer(48, 2, 192, batch_first=True, norm_first=True) for _ in range(2)]
    model = nn.Sequential(nn.Linear(6, 48), *layers, nn.Linear(48, 3)).eval()
    result = podar.prune(model, torch.zeros(1, 10, 6), f"macs={share}")
    assert abs(result.after.macs / result.before.macs - share) <= 0.01
