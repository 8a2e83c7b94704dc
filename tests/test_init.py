"""The public verbs: each is there, documented, loaded late, and never shadowed by a module of its name."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import pytest

import podar


def test_every_verb_exists_and_is_documented() -> None:
    for name in podar.__all__:
        value = getattr(podar, name)
        assert value.__name__ == name
        assert value.__doc__, f"podar.{name} has no docstring"
    assert set(podar.__all__) <= set(dir(podar))


def test_no_module_bears_the_name_of_a_verb() -> None:
    assert [name for name in podar.__all__ if name.islower() and importlib.util.find_spec(f"podar.{name}")] == []


def test_importing_podar_does_not_import_torch() -> None:
    code = "import sys, podar; sys.exit('torch' in sys.modules or podar.__version__ != '0.1.0')"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        podar.prun  # noqa: B018


def test_names_of_the_contract_that_are_no_verbs() -> None:
    assert podar.import_torchvision().__name__ == "torchvision"
    assert podar.demo.load_trained and podar.data.load and podar.criteria.score and podar.recover.recalibrate
