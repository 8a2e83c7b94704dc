"""A folder that podar saved: model.safetensors, plan.json, and source.json, which names the dense architecture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError
from podar.integrations import Blueprint, find, model_source

if TYPE_CHECKING:
    from torch import nn

SOURCE = "source.json"


def is_saved(folder: str | Path) -> bool:
    """Whether a folder holds what `podar.save` writes."""
    folder = Path(folder).expanduser()
    return (folder / "plan.json").is_file() and (folder / "model.safetensors").is_file()


def _complete(incomplete: str) -> list[str]:
    beginning = Path(incomplete or "./")
    folder = beginning if not incomplete or incomplete.endswith("/") else beginning.parent
    if not folder.is_dir():
        return []
    return [str(p) for p in sorted(folder.iterdir()) if p.is_dir() and is_saved(p) and str(p).startswith(incomplete)]


@model_source("FOLDER", accepts=is_saved, complete=_complete)
def blueprint(model: str, model_args: dict[str, Any], trust: bool) -> Blueprint:
    """A pruned model: the dense architecture that source.json names, with the folder's plan and weights.

    A source.json that names a Python file needs `trust`, since opening a folder is no consent to run a program.

    **Raises:** `PodarError` where source.json is missing or damaged, or names what is no longer there.
    """
    folder = Path(model).expanduser().resolve()
    if model_args:
        raise PodarError(f"{model} holds a pruned model as it is, so --model-arg has no meaning here.")
    spec = _read(folder)
    dense_model: str = spec["model"]
    kind = find(dense_model)
    if kind is None:
        raise PodarError(f"{folder / SOURCE} names the model {dense_model!r}, which podar does not find.")
    if ".py:" in dense_model and not trust:
        raise PodarError(
            f"{model} was made from {dense_model}, and building it runs that file: add --trust if that is right."
        )
    dense = kind.blueprint(dense_model, spec.get("model_args", {}), trust)

    unpruned = dense.dense or dense.make

    def make() -> nn.Module:
        from podar.saving import load

        return load(folder, unpruned).eval()

    return Blueprint(make, dense.inputs, dense.spec, dense=unpruned, trained=True, library=dense.library)


def _read(folder: Path) -> dict[str, Any]:
    path = folder / SOURCE
    if not path.is_file():
        raise PodarError(
            f"{folder} holds no {SOURCE}, so podar does not know its architecture: give that as MODEL and the folder "
            "as --weights, or load it in Python with podar.load(folder, build)."
        )
    try:
        spec = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(spec["model"], str) or not isinstance(spec.get("model_args", {}), dict):
            raise TypeError("model must be text and model_args an object")
    except (ValueError, KeyError, TypeError) as error:
        raise PodarError(f"{path} is damaged ({error}).") from error
    return spec
