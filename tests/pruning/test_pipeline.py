"""podar.prune on random networks: surgery ≡ mask, targets met or the nearest value named, refusals change nothing."""

from __future__ import annotations

import copy
import re
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import podar
from podar.errors import PodarError, UsageError
from tests.graph.oracle import difference, redraw
from tests.graph.random_networks import INPUT, Attention, Network, Residual, networks

RELAXED = settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)


def blocks(model: nn.Module) -> Any:
    return model.blocks


def state(model: nn.Module) -> dict[str, bytes]:
    return {n: t.numpy().tobytes() for n, t in model.state_dict().items()} | {
        f"{n}.{k}": repr(v).encode()
        for n, m in model.named_modules()
        for k, v in m.__dict__.items()
        if type(v) in (int, tuple)
    }


@RELAXED
@given(
    networks(), st.sampled_from(["local", "global", "isomorphic"]), st.sampled_from([0.3, 0.5, 0.8]), st.integers(0, 99)
)
def test_surgery_computes_what_the_mask_computes(model: Network, scope: str, fraction: float, seed: int) -> None:
    torch.manual_seed(seed)
    worst, result = difference(
        lambda: model, INPUT, lambda m, x: podar.prune(m, x, f"channels={fraction}", importance="random", scope=scope)
    )
    assert worst < 1e-9
    assert result.after.params == sum(p.numel() for p in result.model.parameters())


@RELAXED
@given(
    networks(),
    st.sampled_from(["macs", "params"]),
    st.floats(0.1, 0.95),
    st.sampled_from(["local", "global", "isomorphic"]),
)
def test_a_target_is_met_or_the_nearest_value_is_named(model: Network, kind: str, fraction: float, scope: str) -> None:
    before = state(model)
    try:
        result = podar.prune(model, INPUT, {kind: fraction}, scope=scope)
    except UsageError:
        raise
    except PodarError as error:
        nearest = re.search(rf"nearest is {kind}=([0-9.]+) of dense", str(error))
        assert nearest and abs(float(nearest[1]) - fraction) > 0.03 - 0.0005  # the message rounds to three digits
        assert state(model) == before
        return
    reached = getattr(result.after, kind) / getattr(result.before, kind)
    assert abs(reached - fraction) <= 0.03
    again = podar.trace(model, INPUT).cost()
    assert (again.params, again.macs, again.bytes) == (result.after.params, result.after.macs, result.after.bytes)


@RELAXED
@given(networks())
def test_trace_leaves_the_model_as_it_was(model: Network) -> None:
    redraw(model)
    before, random = state(model), torch.get_rng_state()
    keys = {n: sorted(m.__dict__) for n, m in model.named_modules()}
    podar.trace(model, INPUT)
    assert state(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert {n: sorted(m.__dict__) for n, m in model.named_modules()} == keys
    assert all(type(v) is not podar.graph.sizes.Size for m in model.modules() for v in m.__dict__.values())


@RELAXED
@given(networks(), st.integers(0, 99))
def test_save_and_load_restore_the_model(tmp_path_factory: pytest.TempPathFactory, model: Network, seed: int) -> None:
    dense = copy.deepcopy(model)
    podar.prune(model, INPUT, "channels=0.6", scope="local")
    folder = podar.save(model, tmp_path_factory.mktemp("saved"))
    loaded = podar.load(folder, lambda: copy.deepcopy(dense))
    x = torch.randn(2, 3, 4, 4)
    with torch.no_grad():
        assert torch.equal(model.eval()(x), loaded(x))


@RELAXED
@given(networks())
def test_a_pruned_model_trains_and_copies(model: Network) -> None:
    podar.prune(model, INPUT, "channels=0.5", scope="local")
    twin = copy.deepcopy(model).train()
    twin(torch.randn(4, 3, 4, 4)).sum().backward()
    for name, p in twin.named_parameters():
        assert p.grad is None or p.grad.shape == p.shape, name
    podar.prune(twin, INPUT, "channels=0.5", scope="local")


@RELAXED
@given(networks())
def test_plans_compose_and_travel_as_json(model: Network) -> None:
    dense = copy.deepcopy(model)
    first = podar.prune(model, INPUT, "channels=0.8", scope="local").plan
    second = podar.prune(model, INPUT, "channels=0.8", scope="local").plan
    both = podar.Plan.from_json((first + second).to_json())
    podar.apply(dense, both)
    assert {n: p.shape for n, p in dense.named_parameters()} == {n: p.shape for n, p in model.named_parameters()}
    for (n, a), (_, b) in zip(dense.named_parameters(), model.named_parameters()):
        assert torch.equal(a, b), n
    assert podar.Plan.from_json(str(model.podar_plan)) == both


def test_protected_layers_keep_every_slice() -> None:
    model = Network(8, [Residual(8, 6, nn.ReLU()), Residual(8, 6, nn.ReLU())], flat=False).eval()
    podar.prune(model, INPUT, "channels=0.5", scope="local", protect=["blocks.0"])
    assert blocks(model)[0].conv1.weight.shape == (6, 8, 3, 3)
    assert blocks(model)[1].conv1.weight.shape == (3, 8, 3, 3)


def test_ratios_override_the_target_and_reach_inner_dimensions() -> None:
    model = Network(8, [Attention(8, 4, 4, 0), Residual(8, 8, nn.ReLU())], flat=False).eval()
    worst, result = difference(
        lambda: model,
        INPUT,
        lambda m, x: podar.prune(m, x, "channels=0.5", scope="local", ratios={"* inner": 0.5, "blocks.1.conv1": 0.25}),
    )
    assert worst < 1e-9
    attention = blocks(result.model)[0]
    assert (attention.num_heads, attention.head_dim) == (4, 2)
    assert blocks(result.model)[1].conv1.weight.shape[0] == 2


def test_widths_are_rounded() -> None:
    model = Network(12, [Residual(12, 40, nn.ReLU()), Residual(12, 24, nn.ReLU())], flat=False).eval()
    podar.prune(model, INPUT, "channels=0.55", scope="local", multiple_of=8)
    assert [b.conv1.weight.shape[0] for b in blocks(model)] == [24, 16]


def test_a_callable_scorer_decides() -> None:
    model = Network(8, [Residual(8, 6, nn.ReLU())], flat=False).eval()

    def first_goes(model: nn.Module, data: object, loss: object) -> dict[str, torch.Tensor]:
        scores = {n: torch.ones_like(p) for n, p in model.named_parameters()}
        scores["blocks.0.conv1.weight"] = torch.arange(6.0).reshape(6, 1, 1, 1).expand(6, 8, 3, 3)
        return scores

    result = podar.prune(model, INPUT, "channels=0.5", scope="local", importance=first_goes)
    assert result.removed["blocks.0.conv1.weight"][0].tolist() == [0, 1, 2]
    assert result.removed["blocks.0.conv2.weight"][1].tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "target", ["macs=0", "macs=1.5", "macs=half", "half", "macs=1", "speed=0.5", "channels=-1", {"macs": 2}]
)
def test_targets_that_make_no_sense_are_refused(target: Any) -> None:
    model = Network(8, [Residual(8, 6, nn.ReLU())], flat=False).eval()
    before = state(model)
    with pytest.raises(UsageError):
        podar.prune(model, INPUT, target)
    assert state(model) == before


def test_a_target_that_protection_makes_unreachable_names_the_nearest() -> None:
    model = Network(8, [Residual(8, 6, nn.ReLU())], flat=False).eval()
    with pytest.raises(PodarError, match=r"nearest is macs=(0.9|1.0)[0-9]* of dense.*protected"):
        podar.prune(model, INPUT, "macs=0.2", protect=["stem", "blocks.0.conv1"], scope="local")


def test_weights_that_are_not_finite_are_named() -> None:
    model = Network(8, [Residual(8, 6, nn.ReLU())], flat=False).eval()
    blocks(model)[0].conv1.weight.data[0] = np.nan
    with pytest.raises(PodarError, match=r"blocks\.0\.conv1\.weight has NaN"):
        podar.prune(model, INPUT, "macs=0.5")


def test_inputs_of_a_wrong_shape_are_named() -> None:
    model = Network(8, [Residual(8, 6, nn.ReLU())], flat=False).eval()
    with pytest.raises(PodarError, match="does not run on the example inputs"):
        podar.prune(model, torch.zeros(1, 4, 4, 4), "macs=0.5")


def test_a_result_prints_as_a_table() -> None:
    model = Network(8, [Residual(8, 16, nn.ReLU())], flat=False).eval()
    result = podar.prune(model, INPUT, "params=0.6")
    text = str(result)
    for row, was, now in (
        ("parameters", result.before.params, result.after.params),
        ("MACs", result.before.macs, result.after.macs),
        ("bytes", result.before.bytes, result.after.bytes),
        ("bytes of activations", result.before.memory_bytes, result.after.memory_bytes),
    ):
        line = re.search(rf"^{row} +([0-9,]+) +([0-9,]+) +([0-9.]+) %$", text, re.MULTILINE)
        assert line and (line[1], line[2]) == (f"{was:,}", f"{now:,}") and abs(float(line[3]) - 100 * now / was) < 0.1
    assert "groups cut" in text and len({len(line) for line in text.splitlines()[:5]}) == 1
    assert repr(result).startswith("Result(Network: parameters ") and "\n" not in repr(result)
