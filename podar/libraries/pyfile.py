"""The user's own code: `file.py:function`. Naming the file is the consent to run it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, UsageError, did_you_mean
from podar.files import no_file
from podar.libraries.register import library

if TYPE_CHECKING:
    from torch import nn

    from podar.workshops import Source


def _accepts(model: str) -> bool:
    file, colon, _ = model.rpartition(":")
    return model.endswith(".py") or (bool(colon) and file.endswith(".py"))


def _complete(incomplete: str) -> list[str]:
    file, colon, beginning = incomplete.rpartition(":")
    if colon and file.endswith(".py") and Path(file).is_file():
        return [f"{file}:{name}" for name in _functions(Path(file)) if name.startswith(beginning)]
    folder = Path(incomplete).parent
    found = sorted(folder.glob(Path(incomplete).name + "*.py")) if folder.is_dir() and not colon else []
    return [f"{path}:{name}" for path in found for name in _functions(path)]


def _functions(path: Path) -> list[str]:
    """Names of a file's top-level functions and classes, read without running it."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return []
    return [
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name[0] != "_"
    ]


@library(
    "FILE.py:FUNCTION",
    help="what a function of your own returns",
    accepts=_accepts,
    complete=_complete,
    runs_code=True,
    on_disk=True,
)
def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """What `function(**model_args)` of the file returns. The file may say what the model takes: `example_inputs`, a
    tensor, tuple, dict, or a function without arguments that returns one of them.

    **Raises:** `PodarError` for a missing file or function (with the nearest name), a file that fails, or a function
    that returns no model; `UsageError` where the string names no function.
    """
    from podar.model.building import call_builder
    from podar.model.example_inputs import own_inputs
    from podar.trust.user_code import run_file
    from podar.workshops import PodarWorkshop, Source

    if model.endswith(".py"):
        names = _functions(Path(model))
        hint = f"{model}:{names[0]}" if names else f"{model}:FUNCTION"
        raise UsageError(f"{model} names a file but no function in it: write for example {hint}.")
    file, _, function = model.rpartition(":")
    path = Path(file).expanduser().resolve()
    if not path.is_file():
        raise PodarError(no_file(Path(file).expanduser(), pattern="*.py"))
    module = run_file(path, f"podar_user_{path.stem}_{abs(hash(path)):x}")
    builder = getattr(module, function, None)
    if not callable(builder):
        names = [name for name in vars(module) if callable(getattr(module, name))]
        raise PodarError(f"{file} has no function {function!r}{did_you_mean(function, names, file + ':{}')}")

    def inputs(built: nn.Module) -> Any:
        given = getattr(module, "example_inputs", None)
        if given is not None:
            return given() if callable(given) else given
        return own_inputs(built, of=model)

    def make() -> nn.Module:
        return call_builder(builder, model_args, of=model)

    spec = {"model": f"{path}:{function}", "model_args": model_args}
    return Source(called=model, spec=spec, make=make, dense=make, example_inputs=inputs, workshop=PodarWorkshop())
