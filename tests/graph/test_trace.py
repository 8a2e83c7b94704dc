"""The tracer: any Python is seen through, unknown operators freeze, values are computed only where they matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.graph.trace import RULES, rule
from tests.graph.oracle import difference

X = torch.zeros(2, 6)


class Net(nn.Module):
    def __init__(self, function: Any = None) -> None:
        super().__init__()
        self.a, self.b, self.function = nn.Linear(6, 8), nn.Linear(8, 3), function or torch.relu

    def forward(self, x: Tensor) -> Tensor:
        return self.b(self.function(self.a(x)))


def local(model: nn.Module, inputs: Any) -> Any:
    return podar.prune(model, inputs, "channels=0.5", scope="local")


def by_loop(x: Tensor) -> Tensor:
    for _ in range(3):
        x = x + 0.1 * x.tanh()
    return x


def by_branch(x: Tensor) -> Tensor:
    """Looks at the values: the trace has to compute them."""
    return x.relu() if float(x.detach().abs().sum()) >= 0 else x.sigmoid()


def by_data(x: Tensor) -> Tensor:
    top = x.mean(1, keepdim=True)
    return torch.where(top > 0, x, -x)


@pytest.mark.parametrize("function", [by_loop, by_branch, lambda x: torch.stack([x, x]).mean(0)])
def test_any_python_is_seen_through(function: Any) -> None:
    worst, result = difference(lambda: Net(function).eval(), X, local)
    assert worst < 1e-9 and result.model.a.out_features == 4


def test_lookups_that_depend_on_values_are_frozen_or_exact() -> None:
    frozen = [why for n, d, why in podar.trace(Net(by_data).eval(), X).frozen if (n, d) == ("a.weight", 0)]
    assert frozen and "statistic" in frozen[0]


def test_an_operator_without_a_rule_freezes_and_a_rule_of_the_users_own_thaws() -> None:
    name = "podar_tests::double"
    library = torch.library.Library("podar_tests", "FRAGMENT")
    library.define("double(Tensor x) -> Tensor")
    library.impl("double", lambda x: x * 2, "CompositeExplicitAutograd")
    model = Net(torch.ops.podar_tests.double).eval()
    frozen = {(n, d): why for n, d, why in podar.trace(model, X).frozen}
    assert frozen["a.weight", 0] == f"no rule for the operator {name}"
    assert name not in RULES

    @rule(name)
    def double(tracer: Any, out: Tensor, x: Tensor) -> None:
        tracer.put(out, tracer.blocks(x), zero=tracer.mark(x).zero)

    try:
        podar.prune(model, X, "channels=0.5")
        assert model.a.out_features == 4
    finally:
        del RULES[name]


def test_a_rule_that_fails_freezes_instead() -> None:
    name = "podar_tests::thirds"
    library = torch.library.Library("podar_tests", "FRAGMENT")
    library.define("thirds(Tensor x) -> Tensor")
    library.impl("thirds", lambda x: x / 3, "CompositeExplicitAutograd")

    @rule(name)
    def thirds(tracer: Any, out: Tensor, x: Tensor) -> None:
        raise IndexError("not foreseen")

    try:
        frozen = {(n, d): w for n, d, w in podar.trace(Net(torch.ops.podar_tests.thirds).eval(), X).frozen}
        assert "its rule does not cover this call (IndexError: not foreseen)" in frozen["a.weight", 0]
    finally:
        del RULES[name]


def test_token_ids_are_real_where_they_index() -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.fc = nn.Embedding(10, 8), nn.Linear(8, 3)

        def forward(self, ids: Tensor) -> Tensor:
            assert int(ids.max()) < 10  # values of ids are looked at
            return self.fc(self.embed(ids).mean(1))

    worst, result = difference(lambda: Words().eval(), torch.randint(0, 10, (2, 5)), local)
    assert worst < 1e-9 and result.model.embed.weight.shape == (10, 4) and result.model.embed.embedding_dim == 4


@pytest.mark.parametrize("train", [False, True])
def test_the_mode_does_not_matter(train: bool) -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 3)).train(train)
    podar.prune(model, X, "channels=0.5")
    assert model[0].out_features == 4 and model.training is train


def test_under_inference_mode_and_with_gradients_off() -> None:
    for context in (torch.inference_mode(), torch.no_grad(), torch.enable_grad()):
        model = Net().eval()
        with context:
            assert [g.size for g in podar.trace(model, X).groups] == [8]
            podar.prune(model, X, "channels=0.5")
        model(torch.randn(2, 6)).sum().backward()


def test_half_precision_models_are_traced() -> None:
    for dtype in (torch.bfloat16, torch.float64):
        model = Net().eval().to(dtype)
        podar.prune(model, X.to(dtype), "channels=0.5")
        assert model.a.weight.shape == (4, 6) and model.a.weight.dtype == dtype
