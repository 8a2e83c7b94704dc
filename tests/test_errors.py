"""The two errors, missing packages, and "did you mean"."""

from __future__ import annotations

import json

import pytest

from podar.errors import QUOTED, PodarError, UsageError, check_known, did_you_mean, nearest, require


def test_exit_codes_tell_failure_from_wrong_usage() -> None:
    assert PodarError.exit_code == 1
    assert UsageError.exit_code == 2
    assert issubclass(UsageError, PodarError)
    assert issubclass(PodarError, ValueError)


def test_require_returns_an_installed_module() -> None:
    assert require("json", extra="x") is json


def test_require_names_the_missing_package_and_the_extra() -> None:
    with pytest.raises(PodarError, match=r'package no_such_package_xyz,.*pip install "podar\[onnx\]"'):
        require("no_such_package_xyz.sub", extra="onnx")


def test_require_tells_a_broken_package_from_a_missing_one(tmp_path, monkeypatch) -> None:
    (tmp_path / "podar_broken_package.py").write_text(
        "raise ImportError('libfoo.so.1: cannot open shared object file')"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PodarError, match=r"installed but cannot be imported \(libfoo\.so\.1.*podar\[onnx\]"):
        require("podar_broken_package", extra="onnx")


@pytest.mark.parametrize(
    ("word", "expected"),
    [("resnet81", "resnet18"), ("RESNET18", "resnet18"), ("vit_b16", "vit_b_16"), ("zzzz", None), ("", None)],
)
def test_nearest(word: str, expected: str | None) -> None:
    assert nearest(word, ["resnet18", "vit_b_16", "densenet121"]) == expected


def test_nearest_of_nothing() -> None:
    assert nearest("x", []) is None


def test_an_unknown_name_gets_the_nearest_choice_or_all_of_them() -> None:
    names = ["global", "local"]
    assert did_you_mean("globl", names) == "; did you mean global?"
    assert did_you_mean("globl", names, QUOTED) == "; did you mean 'global'?"
    assert did_you_mean("globl", names, "{x}{}{y}") == "; did you mean {x}global{y}?"
    assert did_you_mean("xyz", names) == "." and did_you_mean("xyz", names, list_all=True) == "; known: global, local."
    assert did_you_mean("xyz", [], list_all=True) == "."
    check_known("scope", "local", iter(names))
    with pytest.raises(UsageError, match=r"^there is no scope 'loca'; did you mean local\?$"):
        check_known("scope", "loca", iter(names))
    with pytest.raises(UsageError, match=r"^there is no scope 'xyz'; known: global, local\.$"):
        check_known("scope", "xyz", names)
