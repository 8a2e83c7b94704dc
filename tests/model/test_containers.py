"""The one walk through nested containers, and copies that keep the type of every container."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import InitVar, dataclass, field
from types import MappingProxyType
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from podar.model.containers import leaves, name_of, replaced

Pair = namedtuple("Pair", "left right")


class Checked(namedtuple("Checked", "value")):
    """A named tuple whose constructor takes something else than its fields."""

    def __new__(cls, text: str) -> Checked:
        return super().__new__(cls, int(text))


@dataclass(frozen=True, slots=True)
class Frozen:
    x: Any
    seed: InitVar[int]
    twice: Any = field(init=False)

    def __post_init__(self, seed: int) -> None:
        object.__setattr__(self, "twice", (self.x, seed))


class Listed(list):
    """A list with an attribute of its own."""

    def __init__(self, items: list[Any], name: str) -> None:
        super().__init__(items)
        self.name = name


nested = st.recursive(
    st.integers(),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.tuples(inner, inner),
        st.builds(Pair, inner, inner),
        st.dictionaries(st.text(max_size=2), inner, max_size=3),
        st.dictionaries(st.text(max_size=2), inner, max_size=3).map(UserDict),
        st.dictionaries(st.text(max_size=2), inner, max_size=3).map(MappingProxyType),
        st.builds(Frozen, inner, st.integers()),
    ),
    max_leaves=12,
)


@given(nested)
def test_a_copy_has_the_same_leaves_at_the_same_places(value: Any) -> None:
    found = leaves(value)
    copied = replaced(lambda _, leaf: leaf, value)
    assert leaves(copied) == found and type(copied) is type(value)
    by_place = dict(found)
    assert len(by_place) == len(found)
    assert leaves(replaced(lambda place, _: -by_place[place], value)) == [(place, -leaf) for place, leaf in found]


@pytest.mark.parametrize(
    "value",
    [
        OrderedDict(a=1), defaultdict(list, a=1), Pair(1, 2), Checked("1"), Listed([1], "name"), UserDict(a=1),
        MappingProxyType({"a": 1}), Frozen(1, 2), torch.Size([1, 2]),
    ],
    ids=lambda value: type(value).__name__,
)  # fmt: skip
def test_containers_keep_their_types_and_the_original_its_items(value: Any) -> None:
    before = leaves(value)
    other = replaced(lambda _, leaf: leaf + 10, {"held": [value]})["held"][0]
    assert type(other) is type(value) and leaves(value) == before
    assert [leaf for _, leaf in leaves(other)] == [leaf + 10 for _, leaf in before]
    assert getattr(other, "name", None) == getattr(value, "name", None)
    assert getattr(other, "default_factory", None) == getattr(value, "default_factory", None)


def test_places_and_names() -> None:
    value = {"x": 1, "boxes": Pair(2, {"b.c": None})}
    assert [place for place, _ in leaves(value)] == [("x",), ("boxes", 0), ("boxes", 1, "b.c")]
    assert [place for place, _ in leaves(value, fields=True)][1:] == [("boxes", "left"), ("boxes", "right", "b.c")]
    assert name_of(("boxes", 1, "b.c")) == "boxes_1_b_c"
    assert leaves(3) == [((), 3)] and leaves(Pair) == [((), Pair)] and leaves(Frozen) == [((), Frozen)]
