"""A string is one pattern; a pattern means what bears its name and what lies below."""

from __future__ import annotations

import pytest

from podar.model.patterns import means, patterns


@pytest.mark.parametrize(
    ("given", "wanted"), [("a.b", ("a.b",)), (["a", "b"], ("a", "b")), ((), ()), (None, ()), ({"a": 1}, ("a",))]
)
def test_a_string_is_one_pattern(given: str | list[str] | None, wanted: tuple[str, ...]) -> None:
    assert patterns(given) == wanted


@pytest.mark.parametrize(
    ("pattern", "meant"),
    [("layer1", True), ("layer1.*", True), ("*.weight", True), ("layer", False), ("head", True), ("*bias", False)],
)
def test_what_a_pattern_means(pattern: str, meant: bool) -> None:
    assert means(pattern, "layer1.0.conv.weight", "head.weight") is meant
