"""What verification catches: a model that no longer runs, or runs something else than was planned."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError
from podar.graph.verification import ChangedNumber, Expectation, verify_trace
from podar.plans.plan import Plan


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 2, 4
        self.a, self.b, self.c = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x).relu())
        return self.c(x.view(-1, self.heads, self.width).tanh().flatten(1))


INPUT = torch.zeros(4, 6)


def planned(target: str = "channels=0.5") -> tuple[Any, Expectation, Plan]:
    model = Net().eval()
    graph = podar.trace(model, INPUT)
    plan = podar.plan(graph, target, model=model, scope="local")
    return model, Expectation(graph, graph.removed_units(plan)), plan


def test_the_planned_model_passes() -> None:
    model, expected, plan = planned()
    verify_trace(podar.apply(model, plan), INPUT, expected)


def test_a_cut_that_is_missing_is_caught() -> None:
    model, expected, plan = planned()
    cuts = {name: cut for name, cut in plan.cuts.items() if name != "c.weight"}
    podar.apply(model, dataclasses.replace(plan, cuts=cuts))
    with pytest.raises(PodarError, match="no longer runs"):
        verify_trace(model, INPUT, expected)


def test_the_untouched_model_is_not_what_was_planned() -> None:
    model, expected, _ = planned()
    with pytest.raises(PodarError, match=r"gives shape .* where .* was planned"):
        verify_trace(model, INPUT, expected)


def test_other_operators_are_caught() -> None:
    model, expected, plan = planned()
    podar.apply(model, plan)
    model.a.register_forward_hook(lambda module, args, out: out.sigmoid())
    with pytest.raises(PodarError, match="after this cut"):
        verify_trace(model, INPUT, expected)


def test_prune_refuses_and_undoes_what_does_not_verify() -> None:
    class Stubborn(Net):
        def forward(self, x: Tensor) -> Tensor:
            if self.a.weight.shape[0] < 8:  # behaves otherwise once it is cut
                return super().forward(x).sigmoid()
            return super().forward(x)

    model = Stubborn().eval()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(PodarError, match="left as it was"):
        podar.prune(model, INPUT, "channels=0.5", scope="local")
    assert (model.a.out_features, model.heads) == (8, 2) and "podar_plan" not in model.__dict__
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    podar.prune(model, INPUT, "channels=0.5", scope="local", verify=False)
    assert model.a.out_features == 4


class Hidden(nn.Module):
    """Computes with its width in ways that a trace cannot follow."""

    def __init__(self, use: Callable[[Tensor, int], Tensor]) -> None:
        super().__init__()
        self.use, self.a, self.b, self.c = use, nn.Linear(6, 8), nn.Linear(8, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.b(self.a(x).relu()).relu()
        return self.use(self.c(h), h.shape[-1])


HIDDEN: list[Callable[[Tensor, int], Tensor]] = [
    lambda y, c: y * (1.0 / c),
    lambda y, c: y + math.isqrt(c),
    lambda y, c: torch.add(y, y, alpha=math.log(c)),
    lambda y, c: y.masked_fill(y > 0, math.gcd(c, 96)),
    lambda y, c: y * torch.tensor([1.0, math.log(c)])[1],
    lambda y, c: y * torch.from_numpy(np.full(3, math.log2(c))),
    lambda y, c: y * torch.full((3,), math.log2(c)),
    lambda y, c: y.roll(math.isqrt(c), 1),
]


@pytest.mark.parametrize("k", range(len(HIDDEN)))
def test_a_number_that_hangs_on_a_width_is_noticed(k: int) -> None:
    model = Hidden(HIDDEN[k]).double()
    x = INPUT.double()
    graph = podar.trace(model, x)
    without = podar.trace(Hidden(lambda y, c: y).double(), x)
    plan = podar.plan(without, "channels=0.5", model=model, scope="local")
    podar.apply(model, plan)
    with pytest.raises(ChangedNumber, match="depend on a width"):
        verify_trace(model, x, Expectation(graph, graph.removed_units(plan)))


@pytest.mark.parametrize("k", range(len(HIDDEN)))
def test_what_is_noticed_stays_and_the_rest_goes(k: int) -> None:
    model = Hidden(HIDDEN[k]).double()
    result = podar.prune(model, INPUT.double(), "channels=0.5", scope="local")
    assert model.a.weight.shape == (4, 6) and model.b.weight.shape == (16, 4)
    assert any(name == "b.weight" and "used as a number at" in why for name, _, why in result.graph.frozen)


@pytest.mark.parametrize("k", range(len(HIDDEN)))
def test_a_plan_alone_leaves_it_whole_too(k: int) -> None:
    model = Hidden(HIDDEN[k]).double()
    x = INPUT.double() + 1
    state = copy.deepcopy(model.state_dict())
    plan = podar.plan(podar.trace(model, x), "channels=0.5", scope="local")
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    small, masked = podar.apply(copy.deepcopy(model), plan), podar.mask(copy.deepcopy(model), plan)
    assert isinstance(small, Hidden) and small.a.weight.shape == (4, 6) and small.b.weight.shape == (16, 4)
    torch.testing.assert_close(small(x), masked(x))


def test_a_plan_for_a_model_that_was_cut_since_is_made_from_its_trace() -> None:
    model = Net().eval()
    graph = podar.trace(model, INPUT)
    first = podar.plan(graph, "channels=0.5", model=model, scope="local")
    scores = {name: tensor.detach().abs() for name, tensor in model.named_parameters()}
    podar.apply(model, first)
    assert podar.plan(graph, "channels=0.5", scores=scores, scope="local").cuts.keys() == first.cuts.keys()
