"""apply and mask: the same numbers in two shapes, ties and names kept, everything undone where a plan does not fit."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import podar
from podar.errors import PodarError
from podar.plans.cutting import Slicer
from podar.plans.plan import Cut, Plan, Rescale
from podar.plans.surgery import removed_mask
from tests.graph.oracle import redraw
from tests.graph.random_networks import INPUT, Network, Residual, networks

RELAXED = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much]
)


def small() -> Network:
    torch.manual_seed(0)
    return Network(8, [Residual(8, 6, nn.ReLU()), Residual(8, 6, nn.ReLU())], flat=False).eval()


def planned(model: nn.Module, target: str = "channels=0.5") -> Plan:
    return podar.plan(podar.trace(model, INPUT), target, model=model, scope="local")


def test_masked_and_pruned_compute_the_same() -> None:
    model = redraw(small())
    plan = planned(model)
    model.double()
    pruned, masked = podar.apply(copy.deepcopy(model), plan), podar.mask(copy.deepcopy(model), plan)
    x = torch.randn(4, 3, 4, 4).double()
    with torch.no_grad():
        assert torch.allclose(pruned(x), masked(x), atol=1e-12)
    assert [p.shape for p in masked.parameters()] == [p.shape for p in model.parameters()]


@RELAXED
@given(networks(), st.sampled_from([0.3, 0.6]))
def test_prune_is_trace_plan_apply(model: Network, kept: float) -> None:
    by_hand = copy.deepcopy(model)
    podar.apply(by_hand, podar.plan(podar.trace(by_hand, INPUT), f"channels={kept}", model=by_hand, scope="local"))
    podar.prune(model, INPUT, f"channels={kept}", scope="local")
    for (name, a), (_, b) in zip(model.state_dict().items(), by_hand.state_dict().items()):
        assert torch.equal(a, b), name
    assert model.__dict__["podar_plan"] == by_hand.__dict__["podar_plan"]


def test_parameters_stay_the_same_objects_and_gradients_are_dropped() -> None:
    model = small()
    model(torch.randn(2, 3, 4, 4)).sum().backward()
    objects = {n: id(p) for n, p in model.named_parameters()}
    plan = planned(model)
    podar.apply(model, plan)
    assert {n: id(p) for n, p in model.named_parameters()} == objects
    assert all(p.grad is None for n, p in model.named_parameters() if n in plan.cuts)


def test_dtype_and_memory_format_are_kept() -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        model = small().to(dtype)
        podar.apply(model, planned(small()))
        assert {p.dtype for p in model.parameters()} == {dtype}
    model = small().to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    podar.apply(model, planned(small()))
    weight = model.get_parameter("blocks.0.conv2.weight")
    assert weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def test_a_plan_is_not_carried_out_twice_nor_on_another_model() -> None:
    model = small()
    plan = planned(model)
    podar.apply(model, plan)
    shapes = [p.shape for p in model.parameters()]
    with pytest.raises(PodarError, match="carried out already"):
        podar.apply(model, plan)
    with pytest.raises(PodarError, match="does not have"):
        podar.apply(nn.Linear(3, 3), plan)
    with pytest.raises(PodarError, match="expects"):
        podar.mask(model, plan)
    assert [p.shape for p in model.parameters()] == shapes


def test_a_plan_of_steps_is_undone_as_a_whole() -> None:
    model = small()
    first = planned(model)
    broken = first + dataclasses.replace(first, shapes={"stem.weight": (99,)})
    before = {n: t.clone() for n, t in model.state_dict().items()}
    with pytest.raises(PodarError):
        podar.apply(model, broken)
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert model.blocks[0].conv1.out_channels == 6 and "podar_plan" not in model.__dict__  # pyright: ignore
    with pytest.raises(PodarError, match="several steps"):
        podar.mask(model, first + first)


def test_plans_compose() -> None:
    once, twice = small(), small()
    first = podar.prune(once, INPUT, "channels=0.75", scope="local").plan
    second = podar.prune(once, INPUT, "channels=0.5", scope="local").plan
    podar.apply(twice, first + second)
    assert all(torch.equal(a, b) for a, b in zip(once.state_dict().values(), twice.state_dict().values()))
    assert Plan.from_json(once.__dict__["podar_plan"]) == first + second


def test_the_mask_of_a_grouped_cut_by_hand() -> None:
    # Two groups of 2 outputs and 3 inputs; the first loses input 1, the second its input 0 (number 3 over both).
    gone = removed_mask((4, 3), (Cut(1, (1, 3), 6, 2), Cut(0, (2,), 4)))
    assert gone.int().tolist() == [[0, 1, 0], [0, 1, 0], [1, 1, 1], [1, 0, 0]]


def test_training_goes_on_after_a_cut() -> None:
    model = small().train()
    podar.prune(model, INPUT, "channels=0.5", scope="local")
    optimizer = torch.optim.SGD(model.parameters(), 0.05)
    x, y = torch.randn(16, 3, 4, 4), torch.arange(16) % 5
    losses = []
    for _ in range(15):
        loss = nn.functional.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] and model.training


def test_an_interrupted_cut_is_finished(monkeypatch: pytest.MonkeyPatch) -> None:
    model, twin = small(), small()
    podar.prune(twin, INPUT, "channels=0.5", scope="local")
    whole, calls = Slicer.cut, []

    def interrupted(self: Slicer, tensor: torch.Tensor, cuts: tuple[Cut, ...]) -> torch.Tensor:
        calls.append(cuts)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return whole(self, tensor, cuts)

    monkeypatch.setattr(Slicer, "cut", interrupted)
    with pytest.raises(KeyboardInterrupt):
        podar.prune(model, INPUT, "channels=0.5", scope="local")
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), twin.state_dict().values()))
    assert model.__dict__["podar_plan"] == twin.__dict__["podar_plan"]


def test_values_that_somebody_else_holds_are_left_alone() -> None:
    model = small()
    held = model.state_dict()
    before = {n: t.clone() for n, t in held.items()}
    podar.prune(model, INPUT, "channels=0.5", scope="local")
    assert all(torch.equal(before[n], t) for n, t in held.items())


def test_a_cut_that_finds_no_room_is_undone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    before = {n: t.clone() for n, t in model.state_dict().items()}

    def full(self: Slicer, tensor: torch.Tensor, cuts: tuple[Cut, ...]) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(Slicer, "cut", full)
    with pytest.raises(MemoryError):
        podar.prune(model, INPUT, "channels=0.5", scope="local")
    assert all(torch.equal(before[n], t) for n, t in model.state_dict().items())
    assert "podar_plan" not in model.__dict__


def test_other_kinds_of_tensors_are_cut_and_rescaled_too() -> None:
    class Own(torch.Tensor):
        pass

    first, second = nn.Linear(3, 4), nn.Linear(4, 4)
    model = nn.Sequential(first, second)
    kept = [p.detach().clone() for p in model.parameters()]
    first.weight, first.bias = nn.Parameter(kept[0].as_subclass(Own)), nn.Parameter(kept[1].as_subclass(Own))
    second.weight = nn.Parameter(kept[2].clone().as_subclass(Own))
    rows = (Cut(0, (1,), 4),)
    plan = Plan(
        {"0.weight": rows, "0.bias": rows, "1.bias": rows},
        rescales={"1.weight": (Rescale((0,), 2.0),)},
        shapes={"0.weight": (4, 3), "0.bias": (4,), "1.bias": (4,), "1.weight": (4, 4)},
    )
    podar.apply(model, plan)
    left = torch.tensor([0, 2, 3])
    wanted = [kept[0][left], kept[1][left], torch.cat([kept[2][:1] * 2, kept[2][1:]]), kept[3][left]]
    assert all(torch.equal(p.as_subclass(torch.Tensor), w) for p, w in zip(model.parameters(), wanted))
