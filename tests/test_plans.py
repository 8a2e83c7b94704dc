"""Plans are plain data: JSON in and out, sums of steps, one sentence for what is no plan."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from podar.plans import Cut, Plan, Rescale

indices = st.lists(st.integers(0, 30), unique=True, max_size=8).map(lambda found: tuple(sorted(found)))
names = st.text("abc._0", min_size=1, max_size=6)
cuts = st.builds(Cut, st.integers(0, 3), indices, st.integers(31, 64), st.sampled_from([1, 2]))
plans = st.builds(
    Plan,
    st.dictionaries(names, st.lists(cuts, min_size=1, max_size=2).map(tuple), max_size=3),
    st.dictionaries(names, st.dictionaries(names, st.integers(1, 64) | st.floats(0.01, 1), min_size=1), max_size=2),
    st.dictionaries(names, st.lists(st.builds(Rescale, indices, st.floats(0.1, 2))).map(tuple), max_size=2),
    st.dictionaries(names, st.lists(st.integers(1, 64), max_size=4).map(tuple), max_size=2),
)


@settings(max_examples=50, deadline=None)
@given(plans, plans, plans)
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


def test_a_binary_file_is_no_plan(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(ValueError, match="not text"):
        Plan.load(tmp_path / "plan.json")


def test_shared_lists_of_indices_are_written_once() -> None:
    plan = Plan({name: (Cut(0, tuple(range(50)), 64),) for name in "abcdef"})
    assert len(json.loads(plan.to_json())["sets"]) == 1
