"""From units to a plan: every attribute of torch's own modules tells the truth after any cut."""

from __future__ import annotations

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import podar
from tests.graph.random_networks import INPUT, Network, networks


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(networks(), st.sampled_from(["local", "global", "isomorphic"]), st.sampled_from([0.3, 0.6]))
def test_attributes_say_what_the_tensors_are(model: Network, scope: str, kept: float) -> None:
    podar.prune(model, INPUT, f"channels={kept}", scope=scope)
    assert_true(model)


def assert_true(model: nn.Module) -> None:
    for name, m in model.named_modules():
        if isinstance(m, nn.ConvTranspose2d):
            assert tuple(m.weight.shape[:2]) == (m.in_channels, m.out_channels // m.groups), name
        elif isinstance(m, nn.Conv2d):
            assert tuple(m.weight.shape[:2]) == (m.out_channels, m.in_channels // m.groups), name
        elif isinstance(m, nn.Linear):
            assert tuple(m.weight.shape) == (m.out_features, m.in_features), name
        elif isinstance(m, nn.BatchNorm2d):
            assert m.running_mean is not None and len(m.running_mean) == len(m.weight) == m.num_features, name
        elif isinstance(m, nn.GroupNorm):
            assert len(m.weight) == m.num_channels and m.num_channels % m.num_groups == 0, name
        elif isinstance(m, nn.LayerNorm):
            assert tuple(m.weight.shape) == tuple(m.normalized_shape), name
        assert all(type(v) is not int or v >= 0 for v in m.__dict__.values())
        assert not [k for k, v in m.__dict__.items() if type(v).__name__ == "Size" and type(v).__module__ != "torch"]


def test_a_transposed_depthwise_convolution_counts_its_groups() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.ConvTranspose2d(8, 8, 2, 2, groups=8), nn.Conv2d(8, 4, 1)).eval()
    podar.prune(model, torch.zeros(1, 3, 4, 4), "channels=0.5", scope="local")
    assert_true(model)
    assert model[1].groups == model[1].out_channels == 4


def test_a_plan_lists_every_slice_under_every_tied_name() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(8, 2)
            self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.a(x) + self.b(x).relu())

    model = Tied().eval()
    graph = podar.trace(model, torch.zeros(1, 6))
    plan = podar.plan(graph, "channels=0.5", model=model)
    assert plan.cuts["a.weight"] == plan.cuts["b.weight"] and plan.cuts["a.weight"][0].size == 8
    assert set(plan.cuts) == {"a.weight", "b.weight", "a.bias", "b.bias", "out.weight"}
    assert plan.shapes["out.weight"] == (2, 8)
    assert plan.attributes["out"] == {"in_features": 4}
