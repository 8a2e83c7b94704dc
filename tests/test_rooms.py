"""The house: what stands at the top of podar/, how its rooms import each other, and what their files are called."""

from __future__ import annotations

import ast
import importlib
import inspect
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PODAR = ROOT / "podar"
FILES = sorted(PODAR.rglob("*.py"))
PACKAGES = sorted(file.parent for file in FILES if file.name == "__init__.py")

NAMED_BY_THEIR_VERB = {"stages", "cli"}
"""Rooms whose files bear the name of their stage or command, and export nothing else."""


def room_of(file: Path) -> str:
    """The room that a file lies in; files at the top are rooms of their own."""
    return file.relative_to(PODAR).parts[0]


@cache
def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def test_the_top_is_a_page_of_contents() -> None:
    assert {file.name for file in PODAR.glob("*.py")} == {"__init__.py", "__main__.py", "errors.py", "files.py"}
    folders = [folder for folder in PODAR.iterdir() if folder.is_dir() and folder.name != "__pycache__"]
    assert all((folder / "__init__.py").is_file() for folder in folders)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PODAR)))
def test_the_first_line_of_a_file_says_its_job(file: Path) -> None:
    said = ast.get_docstring(tree(file))
    assert said and len(said.splitlines()[0]) > 10


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: str(package.relative_to(ROOT)))
def test_no_file_has_the_name_of_a_verb_that_its_package_exports(package: Path) -> None:
    if package.name in NAMED_BY_THEIR_VERB or package == PODAR:
        return
    names = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    module = importlib.import_module(".".join(package.relative_to(ROOT).parts))
    exported = getattr(module, "__all__", [name for name in vars(module) if not name.startswith("_")])
    verbs = {name for name in exported if name in names and not inspect.ismodule(getattr(module, name))}
    assert not verbs, f"{package.relative_to(ROOT)} exports {verbs}, and has a file of that name"


def private_names_of_other_rooms(file: Path) -> Iterator[str]:
    """Names that begin with an underscore, of modules in other rooms, that a file imports."""
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "podar":
            parts = (node.module or "").split(".")[1:]
            names = [[*parts, alias.name] for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name.split(".")[1:] for alias in node.names if alias.name.partition(".")[0] == "podar"]
        else:
            continue
        for name in names:
            if name and name[0] != room_of(file).removesuffix(".py") and any(part.startswith("_") for part in name):
                yield f"line {node.lineno}: {'.'.join(name)}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PODAR)))
def test_no_file_imports_what_another_room_keeps_to_itself(file: Path) -> None:
    assert not list(private_names_of_other_rooms(file))


@cache
def private_attributes() -> dict[str, set[str]]:
    """For each attribute with an underscore that podar's classes give themselves, the rooms of these classes."""
    found: dict[str, set[str]] = {}
    for file in FILES:
        for kind in (node for node in ast.walk(tree(file)) if isinstance(node, ast.ClassDef)):
            own = {node.name for node in kind.body if isinstance(node, ast.FunctionDef)}
            for node in ast.walk(kind):
                if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                    own |= {node.attr} if isinstance(node.value, ast.Name) and node.value.id == "self" else set()
            for name in own:
                if name.startswith("_") and not name.startswith("__"):
                    found.setdefault(name, set()).add(room_of(file))
    return found


OTHERS = {"_parameters", "_buffers", "_modules", "_call_impl", "_tensor_name", "_replace"}
"""Attributes of torch's own modules and hooks, and of named tuples, whatever else has one of that name."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PODAR)))
def test_no_file_reads_an_attribute_that_another_room_keeps_to_itself(file: Path) -> None:
    known = private_attributes()
    for node in ast.walk(tree(file)):
        if isinstance(node, ast.Attribute) and node.attr.startswith("_") and node.attr not in OTHERS:
            if isinstance(node.value, ast.Name) and node.value.id in ("self", "cls"):
                continue
            rooms = known.get(node.attr, {room_of(file)})
            assert room_of(file) in rooms, f"line {node.lineno}: {ast.unparse(node)} is of {rooms}"


def test_the_layers_name_every_room_once_and_no_circle() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    (layers,) = [contract for contract in settings["contracts"] if contract["type"] == "layers"]
    named = [room.strip(" ()") for layer in layers["layers"] for room in layer.replace(":", "|").split("|")]
    there = {room_of(file).removesuffix(".py") for file in FILES} - {"__init__"}
    assert len(named) == len(set(named)) and there <= set(named)
    assert not layers.get("ignore_imports"), "an import against the layers is a circle"
    assert layers["exhaustive"]
