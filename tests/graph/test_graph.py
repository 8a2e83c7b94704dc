"""The graph as users see it: groups and members, what is frozen and why, explanations, ties between groups."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn

import podar
from podar.errors import PodarError
from tests.graph.random_networks import INPUT, Attention, Network, Residual, networks


def network() -> Network:
    return Network(8, [Residual(8, 6, nn.ReLU()), Attention(8, 2, 4, 0)], flat=False).eval()


def test_groups_name_their_members() -> None:
    graph = podar.trace(network(), INPUT)
    groups = {g.name: g for g in graph.groups}
    inner = groups["blocks.0.conv1"]
    assert (inner.kind, inner.size, inner.widths, inner.tied, inner.held) == ("channels", 6, 1, (), False)
    assert set(inner.members) == {
        ("blocks.0.conv1.weight", 0),
        *((f"blocks.0.bn1.{n}", 0) for n in ("weight", "bias", "running_mean", "running_var")),
        ("blocks.0.conv2.weight", 1),
    }
    heads, within = groups["blocks.1.qkv heads"], [g for g in graph.groups if g.kind == "inner"]
    assert (heads.kind, heads.size, heads.held) == ("heads", 2, False)
    assert heads.widths == 3 * 4 and within and all(g.held for g in within)
    assert "stem" in groups and ("head.weight", 1) in groups["stem"].members


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(networks())
def test_every_axis_is_in_a_group_or_frozen_with_a_reason(model: Network) -> None:
    graph = podar.trace(model, INPUT)
    grouped = {member for group in graph.groups for member in group.members}
    frozen = {(name, dim): why for name, dim, why in graph.frozen}
    for name, p in model.named_parameters():
        for dim, size in enumerate(p.shape):
            kernel = p.dim() == 4 and dim > 1
            if size > 1 and not kernel:
                assert ((name, dim) in grouped) != ((name, dim) in frozen), (name, dim)
    assert all(len(why) > 5 and "\n" not in why for why in frozen.values())
    assert frozen["head.weight", 0] == "output of the model"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(networks())
def test_a_trace_says_the_same_every_time(model: Network) -> None:
    one, two = podar.trace(model, INPUT), podar.trace(model, INPUT)
    assert str(one) == str(two) and one.frozen == two.frozen and one.groups == two.groups
    larger = podar.trace(model, torch.zeros(3, 3, 4, 4))
    assert larger.groups == one.groups and larger.cost().params == one.cost().params


def test_the_printed_graph_and_its_explanations() -> None:
    graph = podar.trace(network(), INPUT)
    text = str(graph)
    assert text.startswith("Graph: ") and f"{graph.cost().params:,} parameters" in text
    assert "blocks.0.conv1" in text and "(heads go instead)" in text
    said = graph.explain("blocks.0.conv1")
    assert "group blocks.0.conv1" in said and "blocks.0.conv2.weight dim 1" in said
    assert "frozen: output of the model" in graph.explain("head")
    assert graph.explain("blocks.0.conv1.weight").startswith("blocks.0.conv1.weight")
    with pytest.raises(PodarError, match=r"did you mean 'blocks\.0\.conv1'"):
        graph.explain("blocks.0.conv11")


def test_parameters_that_nothing_uses_are_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    assert ("idle.weight", 0, "no forward pass uses it") in podar.trace(Idle().eval(), torch.zeros(1, 4)).frozen


def test_parameters_that_only_training_uses_are_met_too() -> None:
    class Auxiliary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.main, self.side = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), nn.Conv2d(8, 4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, ...]:
            x = self.stem(x)
            return (self.main(x), self.side(x)) if self.training else (self.main(x),)

    model = Auxiliary().eval()
    result = podar.prune(model, INPUT, "channels=0.5")
    assert model.side.weight.shape == (4, 4, 1, 1) and not model.training
    assert [t.shape[1] for t in model.train()(torch.zeros(2, 3, 4, 4))] == [4, 4]
    assert torch.equal(result.removed["side.weight"][1], result.removed["main.weight"][1])
    assert result.before.macs == 16 * 8 * 3 + 16 * 4 * 8, "costs are those of inference"


def test_groups_tied_in_number_name_each_other() -> None:
    class Widths(nn.Module):
        """q and k have one width by name, whatever channels go."""

        def __init__(self) -> None:
            super().__init__()
            self.width = 12
            self.a, self.b, self.out = nn.Linear(4, 12), nn.Linear(4, 24), nn.Linear(36, 2)

        def forward(self, x: Tensor) -> Tensor:
            b = self.b(x).reshape(-1, 2, self.width)
            a = self.a(x).reshape(-1, self.width)
            return self.out(torch.cat([a, b.flatten(1)], 1))

    model = Widths().eval()
    graph = podar.trace(model, torch.zeros(3, 4))
    podar.prune(model, torch.zeros(3, 4), "channels=0.5", scope="local")
    assert model.a.out_features == model.width and model.out.in_features == model.a.out_features + model.b.out_features
    assert any(g.tied for g in graph.groups)
