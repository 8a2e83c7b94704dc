"""A metric is one decorated function: a toy, declared here, is a target wherever targets are given."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import podar
from podar.errors import UsageError
from podar.graph.cost import Shares
from podar.pruning.metrics import METRICS, metric, unregister
from podar.pruning.metrics.register import examples
from podar.pruning.target import Target, parse_target, parse_targets

X = torch.zeros(1, 6)
TOY = "juice"


def network() -> Any:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 64), nn.ReLU(), nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 4)]
    return nn.Sequential(*layers).eval()


@pytest.fixture
def juice() -> Iterator[None]:
    @metric(TOY, unit="ml", example="juice=40ml")
    def juice(graph: podar.Graph, left: Shares, tables: Any) -> float:
        """A millilitre for every hundred parameters, and ten for the glass."""
        return 10 + graph.costs.params(left) / 100

    yield
    unregister(TOY)


@pytest.mark.usefixtures("juice")
def test_a_toy_metric_is_a_target() -> None:
    dense = podar.trace(network(), X).cost().params
    result = podar.prune(network(), X, "juice=0.5")
    before, after = result.reached(Target(TOY, 0.5))
    assert before == 10 + dense / 100 and after == 10 + result.after.params / 100
    assert abs(after / before - 0.5) <= 0.03
    result = podar.prune(network(), X, "juice = 20ml")
    assert abs(10 + result.after.params / 100 - 20) <= 0.03 * (10 + dense / 100)
    assert podar.plan(podar.trace(network(), X), {TOY: 0.5}) == podar.prune(network(), X, "juice=0.5").plan


@pytest.mark.usefixtures("juice")
def test_help_and_errors_name_the_toy() -> None:
    assert "juice=40ml" in examples()
    with pytest.raises(UsageError, match="did you mean 'juice'"):
        parse_target("juise=0.5")
    with pytest.raises(UsageError, match=r"known: .*juice"):
        parse_target("xyzzy=0.5")
    with pytest.raises(UsageError, match="an amount .8ml."):
        parse_target("juice=20MB")
    with pytest.raises(UsageError, match="a unit such as 8ml"):
        parse_target("juice=20")
    assert parse_target("juice=20ml") == Target(TOY, 20.0, True)


def test_without_its_declaration_it_is_unknown_and_podar_never_names_it() -> None:
    with pytest.raises(UsageError, match="no target is named 'juice'"):
        podar.prune(network(), X, "juice=0.5")
    folder = Path(podar.__file__).parent
    assert not any(TOY in file.read_text(encoding="utf-8") for file in folder.rglob("*.py"))


def test_the_metrics_of_podar_price_what_a_graph_costs() -> None:
    graph = podar.trace(network(), X)
    whole, cost = Shares(graph.share(graph.removed_units(podar.Plan()))), graph.cost()
    priced = {name: own.price(graph, whole, None) for name, own in METRICS.items() if own.prepare is None}
    assert priced == {
        "params": cost.params, "macs": cost.macs, "bytes": cost.bytes, "memory": cost.memory_bytes, "channels": 112.0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("params=7B", "not a number"),
        ("macs=0.5, macs<=0.4", "both of macs"),
        ("macs<=0.5, channels=0.4", "stands alone"),
        ("channels<=0.5", "counted exactly"),
        ("macs<=0.5,", "not of the form"),
        ("macs<0.5", "not of the form"),
    ],
)
def test_bounds_that_make_no_sense_are_refused(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_targets(text)


@pytest.mark.parametrize(
    ("text", "binding"),
    [("macs<=0.5, params<=0.9", "macs"), ("macs<=0.9,params<=0.4", "params"), ("macs<=0.5", "macs")],
)
@pytest.mark.parametrize("scope", ["global", "local"])
def test_upper_bounds_are_all_kept_and_one_is_nearly_reached(text: str, binding: str, scope: str) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 32, 3), nn.ReLU(), nn.Conv2d(32, 48, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(48, 512), nn.ReLU(), nn.Linear(512, 4),
    ).eval()  # fmt: skip
    result = podar.prune(model, torch.zeros(1, 3, 12, 12), text, scope=scope)
    for target in result.targets:
        before, after = result.reached(target)
        assert after <= target.value * before
        if target.kind == binding:
            assert after >= (target.value - 0.03) * before
    assert not result.missed()
