"""One walk lists what torch's own walks list."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from torch import nn

from podar.model.members import Members
from tests.graph.random_networks import Network, networks


def assert_same_as_torch(model: nn.Module) -> None:
    members = Members(model)
    assert members.all == list(model.named_modules(remove_duplicate=False))
    assert members.once == list(model.named_modules())
    assert list(members.parameters.items()) == list(model.named_parameters())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    assert list(members.tensors) == list(members.owners) == [*parameters, *buffers]
    assert all(tensor is {**parameters, **buffers}[name] for name, tensor in members.tensors.items())
    for name, (module, key) in members.owners.items():
        assert getattr(module, key) is {**parameters, **buffers}.get(name)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(networks())
def test_random_networks(model: Network) -> None:
    assert_same_as_torch(model)


def test_shared_modules_missing_children_and_missing_parameters() -> None:
    shared = nn.Linear(4, 4, bias=False)
    model = nn.Sequential(shared, nn.Sequential(shared, nn.BatchNorm1d(4, affine=False)), nn.ReLU())
    model.register_module("nothing", None)
    assert_same_as_torch(model)
