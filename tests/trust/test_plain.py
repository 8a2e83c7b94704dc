"""JSON and YAML from anybody: plain data come through as they are, everything else ends in a few words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from podar.errors import PodarError
from podar.trust.plain import Unreadable, loads_json, loads_yaml, read_json, read_yaml

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "\n".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 10)}]" for a, b in zip("abcdefgh", "bcdefghi")
)
text = st.text(st.characters(exclude_categories=["Cs", "Cc"]))
plain: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(allow_nan=False, allow_infinity=False) | text,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(plain)
def test_plain_data_come_through(data: Any) -> None:
    assert loads_json(json.dumps(data)) == data
    assert loads_yaml(yaml.safe_dump(data, allow_unicode=True)) == data


@settings(deadline=None)
@given(st.binary(max_size=80) | st.text("{}[]:,\"'&*-! \n\\u0dab1e9.N", max_size=60))
def test_any_bytes_end_in_data_or_words(content: Any) -> None:
    for read in (loads_json, loads_yaml):
        try:
            read(content)
        except Unreadable as error:
            assert str(error) and "\n" not in str(error)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"a":' * 70 + "1" + "}" * 70, "nested too deeply"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
        ("NaN", "NaN is no number"),
        ("[-Infinity]", "is no number"),
        ("1e999", "is too large"),
        ("9" * 5000, "is too large"),
        (r'"\ud800"', "no character"),
        (r'{"\u0000": 1}', "no character"),
        (b"\xff", "UTF-8"),
        ("{} {}", "no JSON"),
        ("", "no JSON"),
    ],
)
def test_json_that_is_refused(content: Any, said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        loads_json(content)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LAUGHS, "unfold to too much"),
        ("a: &a [*a]", "refers to what it stands in"),
        ("a: 1\na: 2", "'a' stands twice"),
        ("[" * 5000, "nested too deeply"),
        ("- " * 5000 + "1", "nested too deeply"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("!!python/name:os.system", "could not determine a constructor"),
        ('"\\ud800"', "no character"),
        ('"\\0"', "no character"),
        (b"\xff\xfe", "UTF-8"),
        ("a: b: c", "mapping values are not allowed"),
        ("2020-99-99", "month"),
    ],
)
def test_yaml_that_is_refused(content: Any, said: str) -> None:
    with pytest.raises(Unreadable, match=said):
        loads_yaml(content)


def test_aliases_in_reason_are_taken() -> None:
    assert loads_yaml("a: &x {k: 1}\nb: {<<: *x, j: 2}") == {"a": {"k": 1}, "b": {"k": 1, "j": 2}}


def test_files(tmp_path: Path) -> None:
    with pytest.raises(PodarError, match="there is no file"):
        read_yaml(tmp_path / "x.yaml")
    with pytest.raises(PodarError, match="Is a directory"):
        read_yaml(tmp_path)
    with pytest.raises(Unreadable, match="Is a directory"):
        read_json(tmp_path)
    (tmp_path / "large.yaml").write_bytes(b"#" * (2 << 20))
    with pytest.raises(PodarError, match="larger than 1 MB"):
        read_yaml(tmp_path / "large.yaml")
