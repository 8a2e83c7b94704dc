"""One walk lists what torch's own walks list."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from torch import nn

from podar.graph.members import modules_of, once, owners_of, tensors_of
from tests.graph.random_networks import Network, networks


def assert_same_as_torch(model: nn.Module) -> None:
    modules = modules_of(model)
    assert modules == list(model.named_modules(remove_duplicate=False))
    assert once(modules) == list(model.named_modules())
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers(remove_duplicate=False))
    assert list(tensors_of(modules)) == [*parameters, *buffers]
    assert all(tensor is {**parameters, **buffers}[name] for name, tensor in tensors_of(modules).items())
    for name, (module, key) in owners_of(modules).items():
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
