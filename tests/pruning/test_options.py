"""One object of options for Python, recipes and the command line."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from typing import Any

import pytest
import torch
from torch import nn

import podar
from podar.errors import UsageError
from podar.pruning import Options
from podar.pruning.options import RECONSTRUCTION, SCOPES, gathered, recipe_options

X = torch.zeros(1, 6)


def network() -> Any:
    torch.manual_seed(0)
    layers = [nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 12), nn.Linear(12, 4)]
    return nn.Sequential(*layers).eval()


def test_options_one_by_one_as_an_object_and_both_mean_the_same() -> None:
    one_by_one = podar.prune(network(), X, "channels=0.5", scope="local", protect="2").plan
    assert one_by_one == podar.prune(network(), X, "channels=0.5", options=Options(scope="local", protect="2")).plan
    assert one_by_one == podar.prune(network(), X, "channels=0.5", protect=["2"], options=Options(scope="local")).plan
    graph = podar.trace(network(), X)
    assert one_by_one == podar.plan(graph, "channels=0.5", options=Options(scope="local", protect="2"))
    assert one_by_one == podar.plan(graph, "channels=0.5", scope="local", options=Options(protect="2"))
    assert one_by_one == podar.prune(network(), X, "channels=0.5", "magnitude", "local", None, "2").plan


def test_every_option_is_an_argument_of_the_verb() -> None:
    names = {field.name for field in dataclasses.fields(Options)}
    assert names <= inspect.signature(podar.prune).parameters.keys()
    for name, option in recipe_options().items():
        assert option.told.help.endswith(".") and name in names
        assert option.default == getattr(Options(), name) or not (option.default or getattr(Options(), name))


@pytest.mark.parametrize("verb", [podar.prune, podar.plan])
def test_an_option_that_is_given_twice_is_refused(verb: Any) -> None:
    given = (network(), X) if verb is podar.prune else (podar.trace(network(), X),)
    with pytest.raises(UsageError, match=r"scope is given twice: as scope='global' and in options, as 'local'"):
        verb(*given, "channels=0.5", scope="global", options=Options(scope="local"))
    with pytest.raises(TypeError, match="scoop"):
        verb(*given, "channels=0.5", scoop="global")


def test_what_is_the_same_twice_or_left_as_usual_is_no_contradiction() -> None:
    assert gathered(Options(scope="local"), {"scope": "local", "depth": True}) == Options(scope="local", depth=True)
    assert gathered(Options(), {"protect": "a"}).protect == ("a",)
    assert gathered(None, {"ratios": {"a": 0.5}}).ratios == {"a": 0.5}
    data = torch.zeros(2, 3)
    assert gathered(Options(data=data), {"data": data}).data is data
    with pytest.raises(UsageError, match="depth is given twice"):
        gathered(Options(depth=True), {"depth": False})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"scope": "globl"}, r"did you mean 'global'\? known: global"),
        ({"multiple_of": 0}, "at least 1"),
        ({"ratios": {"a": 2}}, "at most 1"),
    ],
)
def test_an_option_that_makes_no_sense_is_refused_where_it_is_made(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        Options(**wrong)


def test_a_plan_refuses_what_a_graph_alone_cannot_tell() -> None:
    with pytest.raises(UsageError, match=r"depth=True call podar\.prune"):
        podar.plan(podar.trace(network(), X), "channels=0.5", options=Options(depth=True))


def test_names_for_completion_are_those_of_the_registers() -> None:
    told = {name: option.told.names for name, option in recipe_options().items()}
    assert told["scope"] is not None and tuple(told["scope"]()) == SCOPES
    assert told["importance"] is not None and set(told["importance"]()) == {*podar.criteria.CRITERIA, RECONSTRUCTION}


def test_reading_the_options_does_not_load_torch() -> None:
    code = (
        "import sys, podar.pruning; from podar.pruning.options import recipe_options as options; options(); "
        "print('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "False"
