"""Plans are plain data: JSON in and out, sums of steps, one sentence for what is no plan."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from podar.errors import PodarError
from podar.plans.plan import Cut, Plan, Rescale
from podar.plans.surgery import apply

indices = st.lists(st.integers(0, 30), unique=True, max_size=8).map(lambda found: tuple(sorted(found)))
names = st.text("abc.0", min_size=1, max_size=6)
attributes = st.sampled_from(["width", "num_heads", "scale", "_c", "sizes[2]", "config.hidden_size"])
numbers = st.integers(1, 64) | st.floats(0.01, 1)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """A plan whose parts agree: every tensor that is cut has a shape of which the cuts speak."""
    shapes = draw(st.dictionaries(names, st.lists(st.integers(31, 64), min_size=1, max_size=3).map(tuple), max_size=3))
    cuts: dict[str, tuple[Cut, ...]] = {}
    for name, shape in shapes.items():
        groups = 2 if len(shape) > 1 and shape[0] % 2 == 0 and draw(st.booleans()) else 1
        dims = draw(st.lists(st.integers(0, len(shape) - 1), unique=True, min_size=1, max_size=2))
        sizes = {dim: groups if dim == 1 else 1 for dim in dims}
        cuts[name] = tuple(Cut(dim, draw(indices), shape[dim] * n, n) for dim, n in sizes.items())
    rescales = st.lists(st.builds(Rescale, indices, st.floats(0.1, 2), st.integers(0, 3))).map(tuple)
    return Plan(
        cuts,
        draw(st.dictionaries(names, st.dictionaries(attributes, numbers, min_size=1), max_size=2)),
        draw(st.dictionaries(names, rescales, max_size=2)),
        shapes,
    )


@settings(max_examples=50, deadline=None)
@given(plans(), plans(), plans())
def test_json_is_the_identity_and_sums_are_associative(a: Plan, b: Plan, c: Plan) -> None:
    assert Plan.from_json(a.to_json()) == a
    assert (a + b) + c == a + (b + c)
    assert (a + b + c).steps == (*a.steps, *b.steps, *c.steps)
    assert Plan.from_json((a + b + c).to_json()) == a + b + c


def test_an_empty_plan_is_false_and_one_with_cuts_is_true() -> None:
    cut = Plan({"w": (Cut(0, (1,), 4),)})
    assert not Plan() and cut and (cut + Plan())


def test_a_plan_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    plan = Plan({"w": (Cut(0, (1, 3), 4),)}, shapes={"w": (4, 2)})
    plan.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == plan
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]
    plan.save(tmp_path / "new" / "plan.json")
    assert Plan.load(tmp_path / "new" / "plan.json") == plan


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a podar plan"),
        ("[1]", "not a podar plan"),
        ('{"a": 1}', "not a podar plan"),
        ('{"podar_plan": 99}', "install the podar that wrote it"),
        ('{"podar_plan": 1, "sets": [], "steps": [{"cuts": {"w": [[0, 5, 4, 1]]}}]}', "damaged"),
        ('{"podar_plan": 1, "sets": [], "steps": []}', "damaged"),
        ('{"podar_plan": 1, "sets": [["x"]], "steps": []}', "damaged|invalid|plan"),
    ],
)
def test_what_is_no_plan_is_said_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "plan.json").write_text(text)
    with pytest.raises(ValueError, match=said) as caught:
        Plan.load(tmp_path / "plan.json")
    assert "plan.json" in str(caught.value) and "\n" not in str(caught.value)


GOOD = {
    "podar_plan": 1,
    "sets": [[0, 3]],
    "steps": [{"cuts": {"0.weight": [[0, 0, 4, 1]]}, "attributes": {"0": {"out_features": 2}}, "rescales": {},
               "shapes": {"0.weight": [4, 3]}, "skips": {}}],
}  # fmt: skip


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("sets", [[3, 0]]),
        ("sets", [[0, 0]]),
        ("sets", [[-1]]),
        ("sets", [[4]]),
        ("sets", [[10**18]]),
        ("sets", [[True]]),
        ("sets", [[0.5]]),
        ("sets", []),
        ("cuts", {"0.weight": [[2, 0, 4, 1]]}),
        ("cuts", {"0.weight": [[0, 0, 5, 1]]}),
        ("cuts", {"0.weight": [[0, 0, 4, 1], [0, 0, 4, 1]]}),
        ("cuts", {"0.weight": [[0, 0, 8, 2]]}),
        ("cuts", {"0.weight": [[0, 0, 4, 0]]}),
        ("cuts", {"1.weight": [[0, 0, 4, 1]]}),
        ("cuts", []),
        ("shapes", {"0.weight": [-4, 3]}),
        ("shapes", {"0.weight": [4] * 40}),
        ("attributes", {"0": {"__class__": 3}}),
        ("attributes", {"0": {"forward.__code__": 3}}),
        ("attributes", {"0": {"x[-1]": 3}}),
        ("attributes", {"0": {"a b": 3}}),
        ("attributes", {"0": {"out_features": "2"}}),
        ("attributes", {"0": {"out_features": True}}),
        ("attributes", {"0": {"out_features": None}}),
        ("attributes", {"0": {"out_features": 1e40}}),
        ("rescales", {"0.weight": [[5, 1.0, 0]]}),
        ("rescales", {"0.weight": [[0, "x", 0]]}),
        ("skips", {"0": [1, 0]}),
        ("skips", {"0": [True, 10**9]}),
        ("computed", {"0.weight": ["exec", ["x"], 0]}),
        ("more", {}),
    ],
)
def test_data_that_do_not_agree(place: str, value: object) -> None:
    assert Plan.from_json(json.dumps(GOOD))
    bad = copy.deepcopy(GOOD)
    (bad if place == "sets" else bad["steps"][0])[place] = value
    with pytest.raises(PodarError, match="this plan is damaged") as caught:
        Plan.from_json(json.dumps(bad))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("module", "attributes"),
    [
        ("0", {"training": 1}),
        ("0", {"forward": 2}),
        ("0", {"weight": 2}),
        ("0", {"_parameters": 2}),
        ("0", {"nothing": 2}),
        ("0", {"out_features": -2}),
        ("0", {"out_features": 2.5}),
        ("0", {"_modules.x": 2}),
        ("9", {"out_features": 2}),
    ],
)
def test_a_plan_sets_numbers_that_are_there(module: str, attributes: dict[str, float]) -> None:
    model = nn.Sequential(nn.Linear(3, 4))
    before = dict(vars(model[0]))
    plan = Plan({"0.weight": (Cut(0, (0,), 4),), "0.bias": (Cut(0, (0,), 4),)}, {module: attributes}, {},
                {"0.weight": (4, 3), "0.bias": (4,)})  # fmt: skip
    with pytest.raises(PodarError, match="the plan sets"):
        apply(model, plan)
    assert model[0].weight.shape == (4, 3) and vars(model[0]).keys() == before.keys()


def test_a_binary_file_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="not text"):
        Plan.load(tmp_path / "plan.json")


def test_shared_lists_of_indices_are_written_once() -> None:
    plan = Plan({name: (Cut(0, tuple(range(50)), 64),) for name in "abcdef"})
    assert len(json.loads(plan.to_json())["sets"]) == 1
