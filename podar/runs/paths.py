"""The files that a run reads: named by absolute paths, and listed, so that a change of theirs can be noticed."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.data.register import find_data_source
from podar.errors import PodarError
from podar.libraries import find_library
from podar.runs.recipe import Recipe
from podar.stages import StageOptions
from podar.trust.plain import read_yaml

if TYPE_CHECKING:
    from podar.workshops import Source


def absolute(recipe: Recipe) -> Recipe:
    """A recipe whose model, data, weights and settings name files by absolute paths, for a run that goes on elsewhere.

    Names stay names: only what is there, and is the same kind of model or data under its absolute path, is a path.
    """

    def path(text: str) -> str:
        return str(Path(text).expanduser().absolute())

    model = recipe.model
    if _files_named(model):
        prefix, colon, rest = model.rpartition(":")
        full = f"{path(prefix)}:{rest}" if prefix.endswith(".py") else f"{prefix}{colon}{path(rest)}"
        model = full if find_library(full) is find_library(model) else model
    data = recipe.data
    if data is not None and Path(data).expanduser().exists() and find_data_source(data) is find_data_source(path(data)):
        data = path(data)
    stages = tuple(
        options.model_copy(update={name: _absolute(getattr(options, name), path) for name in options.file_options})
        for options in recipe.stages
    )
    weights = None if recipe.weights is None else path(recipe.weights)
    modules = tuple(path(file) for file in recipe.modules)
    update = {"model": model, "modules": modules, "data": data, "weights": weights, "stages": stages}
    return recipe.model_copy(update=update)


def files_of(recipe: Recipe, source: Source) -> list[Path]:
    """Files and folders that a run reads: its model, the user's code that it imported, weights, data, settings."""
    found = [*_files_named(recipe.model), *_files_named(str(source.spec.get("model", ""))), *map(Path, recipe.modules)]
    for code in [path for path in found if path.suffix == ".py"]:
        beside = code.resolve().parent
        modules = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
        own = (Path(file) for file in modules if file and file.endswith(".py"))
        found += [p for p in own if p.is_relative_to(beside) and "site-packages" not in p.relative_to(beside).parts]
    if recipe.weights is not None:
        found.append(Path(recipe.weights))
    if recipe.data is not None and Path(recipe.data).expanduser().exists():
        found += _data_files(Path(recipe.data).expanduser())
    return [*found, *(Path(text) for options in recipe.stages for text in _files_among(options))]


def _absolute(value: Any, path: Callable[[str], str]) -> Any:
    """The value of an option, with absolute paths where its texts name files."""
    if isinstance(value, Mapping):
        return {key: _absolute(part, path) for key, part in value.items()}
    return path(value) if _is_file(value) else value


def _files_among(options: StageOptions) -> list[str]:
    """The files that a stage's options name."""
    values = [getattr(options, name) for name in options.file_options]
    texts = [text for value in values for text in (value.values() if isinstance(value, Mapping) else [value])]
    return [text for text in texts if _is_file(text)]


def _files_named(model: str) -> list[Path]:
    """The file or folder in a MODEL string; of a folder that podar saved, what it reads there."""
    prefix, colon, rest = model.rpartition(":")
    library = find_library(model)
    if library is None or (colon and not library.on_disk):
        return []  # timm:resnet18 is a name, whatever lies here under that name
    path = Path(prefix if prefix.endswith(".py") else rest).expanduser()
    if path.is_dir() and (path / "plan.json").is_file():
        return [path / name for name in ("model.safetensors", "plan.json", "source.json")]
    return [path] if path.exists() else []


def _data_files(path: Path) -> list[Path]:
    """A data set's files: of a data.yaml also the folders that it names, and the labels beside the images."""
    if path.suffix not in (".yaml", ".yml"):
        return [path]
    try:
        content = read_yaml(path)
        root = path.parent / str(content.get("path") or "")
        named = [content.get(split) for split in ("train", "val", "test")]
    except (PodarError, OSError, ValueError, AttributeError):
        return [path]
    places = [root / place for entry in named for place in (entry if isinstance(entry, list) else [entry]) if place]
    labels = [Path(str(place).replace("/images", "/labels")) for place in places]
    return [path, *(place for place in (*places, *labels) if place.exists())]


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value.endswith((".pt", ".yaml", ".yml")) and Path(value).expanduser().is_file()
