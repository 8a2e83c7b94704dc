"""A model file opened in the runtime that reads it, or a torch module made ready, and run once on the user's inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, UsageError, first_line
from podar.runtimes.file_inputs import matched
from podar.runtimes.register import RUNTIMES, Runtime, runtime_named
from podar.runtimes.session import Ready, Session

if TYPE_CHECKING:
    from torch import nn


def open_file(file: Path, threads: int = 1, *, runtime: str | None = None) -> Session:
    """Open a model file. `runtime`: None takes the first that reads it.

    **Raises:** `UsageError` for an unknown runtime, one that does not read this kind of file, threads below 1;
    `PodarError` for a missing file, a file that is no model, a package that is not installed.
    """
    check_threads(threads)
    chosen = _chosen(runtime, file)
    chosen.imported()
    return chosen.open(file, threads)


def check_threads(threads: int) -> None:
    """Refuse a number of threads that cannot be.

    **Raises:** `UsageError`.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads is {threads!r}: give a whole number from 1 up.")


def open_in(name: str | None, model: str | Path | nn.Module, example_inputs: Any, threads: int) -> Ready:
    """Open a model in the runtime of that name (None: the first that reads it), and run it once.

    **Raises:** As `open_file`; `PodarError` for inputs that do not fit.
    """
    if not isinstance(model, (str, Path)):
        chosen = _chosen(name, model)
        assert chosen.module is not None
        chosen.imported()
        return chosen.module(model, example_inputs, threads)
    path = Path(model)
    session = open_file(path, threads, runtime=name)
    arrays = list(matched(path, session.inputs, example_inputs).values())
    try:
        session.run(arrays)
    except PodarError:
        raise
    except Exception as error:  # the runtimes' errors share no base class
        raise PodarError(f"{path} does not run on the example inputs: {first_line(error)}.") from error
    return Ready(session.version, lambda: session.run(arrays))


def readers(model: str | Path | nn.Module) -> list[Runtime]:
    """The runtimes that can open this model, the usual one first.

    **Raises:** `PodarError` for a missing file; `UsageError` for a file whose suffix no runtime reads.
    """
    if not isinstance(model, (str, Path)):
        return [found for found in RUNTIMES.values() if found.module is not None and found.takes(model)]
    path = Path(model)
    if path.is_dir():
        raise PodarError(f"cannot measure {path}: it is a folder; name the model file in it.")
    if not path.is_file():
        raise PodarError(f"cannot measure {path}: there is no such file.")
    found = _reading(path)
    if not found:
        suffixes = ", ".join(sorted({suffix for one in RUNTIMES.values() for suffix in one.suffixes}))
        raise UsageError(f"cannot measure {path}: {path.suffix or 'a name without suffix'} is none of {suffixes}.")
    return [one for one in found if one.takes(path)]


def sidecars(path: Path) -> Iterator[Path]:
    """The files that may travel beside a model file, by the runtime that usually reads it; they need not be there."""
    for reader in _reading(path)[:1]:
        for ending in reader.sidecars:
            yield path.with_suffix(ending)


def file_bytes(path: Path) -> int:
    """Size of the deployable model: the file, and the weights that travel beside it (OpenVINO's .bin, ONNX's .data)."""
    return sum(file.stat().st_size for file in (path, *sidecars(path)) if file.exists())


def _reading(path: Path) -> list[Runtime]:
    return [found for found in RUNTIMES.values() if path.suffix.lower() in found.suffixes]


def _chosen(name: str | None, model: Any) -> Runtime:
    choices = readers(model)
    if name is None:
        return choices[0]
    if runtime_named(name) not in choices:
        called = str(model) if isinstance(model, (str, Path)) else f"a torch model ({type(model).__name__})"
        raise UsageError(f"{name} does not run {called}; {' and '.join(c.name for c in choices)} can.")
    return RUNTIMES[name]
