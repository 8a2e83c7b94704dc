"""Python files of the user's own: run when they are named, and the layers (nn.Module classes) that they define."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from podar.errors import PodarError, UsageError
from podar.files import no_file

if TYPE_CHECKING:
    from types import ModuleType

    from torch import nn

_taken: dict[Path, ModuleType] = {}
_LARGEST = 1 << 20  # bytes of a file that is only looked at


def take(files: Iterable[str | Path]) -> list[str]:
    """Run Python files and remember the layers that they define; a file that was run before is left as it is.

    Naming a file on the command line (`--module FILE.py`) is the consent to run it; nobody else may call this.

    **Returns:** Their absolute paths. **Raises:** `UsageError` where a name is no .py; `PodarError` for a missing file,
    or one that fails.
    """
    paths = [Path(file).expanduser().resolve() for file in files]
    for path in paths:
        if path.suffix != ".py":
            raise UsageError(f"--module {path.name}: give a Python file, FILE.py.")
        if not path.is_file():
            raise PodarError(no_file(path, pattern="*.py"))
        if path not in _taken:
            _taken[path] = run_file(path, _importable_name(path))
    return [str(path) for path in paths]


def is_taken(file: str | Path) -> bool:
    """Whether a file was named, and so was run."""
    return Path(file).expanduser().resolve() in _taken


def taken() -> list[str]:
    """Absolute paths of the files that were named."""
    return [str(path) for path in _taken]


def own_layer(name: str) -> type[nn.Module] | None:
    """The layer of this name that a named file defines or imports, or None."""
    from torch import nn

    for module in reversed(_taken.values()):
        found = vars(module).get(name)
        if isinstance(found, type) and issubclass(found, nn.Module):
            return found
    return None


def file_that_defines(name: str, folder: Path | None = None) -> Path | None:
    """A .py of a folder (None: the current one) that defines a class of this name; the files are read, and not run."""
    for path in sorted((folder or Path()).glob("*.py")):
        try:
            if path.stat().st_size <= _LARGEST and name in _classes(path.read_bytes()):
                return path
        except OSError:
            continue
    return None


def _classes(source: bytes) -> set[str]:
    try:
        return {node.name for node in ast.parse(source).body if isinstance(node, ast.ClassDef)}
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return set()


def _importable_name(path: Path) -> str:
    """Its plain name where nothing else has it: what torch.save writes of its classes then loads beside the file."""
    if path.stem.isidentifier() and path.stem not in sys.modules:
        with contextlib.suppress(ImportError, ValueError):
            found = importlib.util.find_spec(path.stem)
            if found is None or found.origin == str(path):
                return path.stem
    return f"podar_user_{path.stem}_{abs(hash(path)):x}"


def run_file(path: Path, name: str) -> ModuleType:
    """Import a file by its path; files beside it can be imported by it, as when Python runs it.

    **Raises:** `PodarError` where it fails.
    """
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path  # the name ends in .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look modules up there
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        line = f", line {error.lineno}" if isinstance(error, SyntaxError) else ""
        raise PodarError(f"{path.name}{line} cannot be run: {type(error).__name__}: {error}") from error
    return module
