"""An operator is declared once, and every table follows: a toy is traced, pruned, verified and counted by it alone."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.graph.operators import register, shapes
from podar.graph.operators.register import ALL, FIRST, OPERATORS, Operator, operator, passes
from podar.graph.residual_blocks import residual_blocks
from podar.graph.tracing.calls import CONVOLUTIONS, NAMES
from podar.graph.tracing.chance import DROPPED
from podar.graph.tracing.dispatch import Defect
from tests.graph.oracle import difference

HOME = Path(podar.__file__).parent / "graph"
TOY = "toys::mix"
PICTURE = torch.zeros(1, 3, 8, 8)


@torch.library.custom_op(TOY, mutates_args=())
def mix(x: Tensor, weight: Tensor) -> Tensor:
    return torch.einsum("nchw,oc->nohw", x, weight)


class Mixing(nn.Module):
    """A layer whose only operator is the toy, within a residual branch."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(width, width))

    def forward(self, x: Tensor) -> Tensor:
        return mix(x, self.weight)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Conv2d(3, 16, 3), Mixing(), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.last(x + self.branch(x))


def mixed(tracer: Any, out: Tensor, x: Tensor, weight: Tensor) -> None:
    """Columns of the weight meet the channels; its rows are the new ones."""
    tracer.equal(tracer.axis(x, 1), tracer.axis(weight, 1))
    rows = tracer.axis(weight, 0)
    tracer.put(out, (((1,), rows),), zero=tracer.zero(x, weight))
    tracer.macs(out.numel() * weight.shape[1], rows, tracer.axis(x, 1))


@pytest.fixture
def declared() -> Generator[None]:
    operator(TOY, shape=shapes.same, zero=(1,), scales=(1,), counts=True)(mixed)
    yield
    register.forget(TOY)


@pytest.mark.usefixtures("declared")
def test_a_toy_is_traced_pruned_verified_and_counted() -> None:
    graph = podar.trace(Net().eval(), PICTURE)
    assert not graph.record.real  # its shape was enough: nothing was computed
    assert graph.costs.macs_by_module(graph.share(graph.removed_units(podar.Plan())))["branch"] == 36 * 16 * 16
    worst, result = difference(Net, PICTURE, lambda m, x: podar.prune(m, x, "channels=0.5"))
    assert worst < 1e-9
    assert result.model.branch.weight.shape == (8, 8)


@pytest.mark.usefixtures("declared")
def test_a_branch_that_ends_in_it_can_go() -> None:
    model = Net().eval()
    assert [b.name for b in residual_blocks(model, PICTURE, podar.trace(model, PICTURE))] == ["branch"]


@pytest.mark.usefixtures("declared")
def test_what_makes_its_result_takes_the_factor_of_attention() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q, self.k, self.v, self.last = Mixing(), Mixing(), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            q, k, v = (t.flatten(2).transpose(1, 2) for t in (self.q(x), self.k(x), self.v(x)))
            out = nn.functional.scaled_dot_product_attention(q, k, v)
            return self.last(out.transpose(1, 2).unflatten(2, (4, 4)))

    x = torch.zeros(1, 16, 4, 4)
    worst, result = difference(Attending, x, lambda m, x: podar.prune(m, x, "channels=0.5"))
    assert worst < 1e-9
    assert {"q.weight", "k.weight"} <= result.plan.rescales.keys()


def test_without_the_declaration_its_axes_stay() -> None:
    model = Net().eval()
    frozen = podar.trace(model, PICTURE).frozen
    assert any(f"no rule for the operator {TOY}" in why for _, _, why in frozen)
    assert TOY not in "".join(p.read_text(encoding="utf-8") for p in HOME.rglob("*.py"))


def broken(tracer: Any, out: Tensor, x: Tensor, weight: Tensor) -> None:
    raise AttributeError("a defect")


def test_a_defect_in_a_rule_is_raised_in_tests() -> None:
    operator(TOY)(broken)
    try:
        with pytest.raises(Defect, match=f"{TOY} in branch"):
            podar.trace(Net().eval(), PICTURE)
    finally:
        register.forget(TOY)


def test_a_defect_in_a_rule_freezes_with_a_reason_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODAR_STRICT", "0")
    operator(TOY)(broken)
    try:
        frozen = podar.trace(Net().eval(), PICTURE).frozen
    finally:
        register.forget(TOY)
    why = f"its rule does not cover this call (AttributeError: a defect) of {TOY} in branch"
    assert any(why in reason for _, _, reason in frozen)


def test_a_defect_in_a_shape_is_raised_in_tests_and_computed_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    def shape(x: Tensor, weight: Tensor) -> Tensor:
        raise TypeError("a defect")

    operator(TOY, shape=shape, counts=True)(mixed)
    try:
        with pytest.raises(Defect, match=TOY):
            podar.trace(Net().eval(), PICTURE)
        monkeypatch.setenv("PODAR_STRICT", "0")
        assert podar.trace(Net().eval(), PICTURE).groups
    finally:
        register.forget(TOY)


def test_podar_declares_no_operator_twice() -> None:
    assert OPERATORS["relu"].rule is not None
    with pytest.raises(ValueError, match="relu is declared twice"):
        operator("relu")(OPERATORS["tanh"].rule or broken)


def aten() -> set[str]:
    names: list[str] = torch._C._dispatch_get_all_op_names()
    return {n.partition("::")[2].partition(".")[0] for n in names if n.startswith("aten::")}


def test_what_is_declared_exists() -> None:
    """A misspelt name would do nothing."""
    known = aten()
    assert not [n for n, o in OPERATORS.items() if "::" not in n and n not in known and not o.whole]


WORDS = set("_foreach_clone data dim indices numel numpy put random size stride to tolist values".split())
"""Names of operators that mean something else in these files."""


def named_in(file: Path) -> set[str]:
    """Words of the strings in a file that are no sentences."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    strings = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant) and id(n) not in prose]
    return {w for s in strings if isinstance(s, str) and re.fullmatch(r"[a-z_0-9\s]+", s) for w in s.split()}


def test_every_operator_that_the_dispatcher_knows_by_name_is_declared() -> None:
    files = [*(HOME / "tracing").glob("*.py"), *HOME.glob("*.py")]
    found = set[str]().union(*map(named_in, files)) & aten()
    assert {"lift_fresh", "convolution", "dropout"} <= found
    turned = {*NAMES, *CONVOLUTIONS}  # calls of Python's that become another operator
    assert found - OPERATORS.keys() - turned <= WORDS
    assert {*NAMES.values(), *DROPPED, "convolution"} <= OPERATORS.keys()


def test_rules_that_count_say_so() -> None:
    """Where nothing that enters has labels a rule is left out, unless it counts."""
    for name, one in OPERATORS.items():
        if one.rule is not None and "tracer.macs(" in inspect.getsource(one.rule):
            assert one.counts, name


def test_every_rule_says_what_it_does() -> None:
    assert not [n for n, o in OPERATORS.items() if o.rule is None or not (o.rule.__doc__ or "").strip()]


@pytest.mark.parametrize(
    ("passing", "given", "passed"),
    [
        (None, [True], False),
        (FIRST, [True, False], True),
        (FIRST, [None, True, False], True),
        (ALL, [True, None, True], True),
        (ALL, [True, False], False),
        (register.ANY, [False, True], True),
        ((1, 2), [False, True, None], True),
        ((1, 2), [True], False),
        (ALL, [], False),
    ],
)
def test_what_passes(passing: Any, given: list[bool | None], passed: bool) -> None:
    assert passes(passing, given) is passed


def test_an_operator_is_known_without_a_declaration_too() -> None:
    assert Operator("my_ops::anything").rule is None
