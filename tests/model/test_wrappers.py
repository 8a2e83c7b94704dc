"""A model is the same one under any stack of wrappers, and its parts keep the names that they have without."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from podar.model.wrappers import inside, plain_name, unwrapped

# torch.compile imports a part of torch that is deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")

WRAPPERS: list[Callable[[nn.Module], nn.Module]] = [nn.DataParallel, torch.compile, AveragedModel]  # pyright: ignore


# torch.compile of what torch.compile made is no module in torch itself.
PAIRS = [pair for pair in itertools.product(WRAPPERS, repeat=2) if pair != (torch.compile, torch.compile)]


@pytest.mark.parametrize(("outer", "inner"), PAIRS)
def test_the_model_under_two_wrappers(outer: Callable[..., nn.Module], inner: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    wrapped = outer(inner(model))
    found = unwrapped(wrapped)
    assert type(found) is nn.Sequential and found.state_dict().keys() == model.state_dict().keys()
    names = {plain_name(wrapped, n) for n, _ in wrapped.named_parameters()}
    assert names == {n for n, _ in model.named_parameters()}


@pytest.mark.parametrize("wrap", WRAPPERS)
def test_names_of_what_is_wrapped_inside(wrap: Callable[..., nn.Module]) -> None:
    model = nn.Sequential(nn.Linear(2, 3), nn.Sequential(nn.Linear(3, 3)))
    before = [n for n, _ in model.named_parameters()]
    model[1] = wrap(model[1])
    assert [plain_name(model, n) for n, _ in model.named_parameters()] == before
    assert unwrapped(model) is model


def test_a_users_own_module_of_that_name_is_no_wrapper() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = nn.Linear(2, 2)

    net = Net()
    assert unwrapped(net) is net and inside(net) is None and plain_name(net, "module.weight") == "module.weight"
