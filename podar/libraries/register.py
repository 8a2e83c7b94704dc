"""The register of model libraries: one file of this folder a library, each declared by `library`, found by `find`.

A new library is one new file here with one decorated function; nothing else changes: the command's help, completion,
the checks of a recipe and the error for a missing package are derived. The files import torch and their library inside
their functions, so that listing them costs nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from podar.errors import PodarError, UsageError, absence

if TYPE_CHECKING:
    from podar.workshops import Source, Workshop

Opener = Callable[[str, "dict[str, Any]", bool], "Source"]
"""`(model, model_args, trust) → Source`."""


def _own_workshop(model: str) -> Workshop:
    from podar.workshops import PodarWorkshop

    return PodarWorkshop()


@dataclass(frozen=True)
class Library:
    """One kind of MODEL string.

    - `form`: how help and messages write it, such as `timm:NAME`; `help`: what it is, in a few words.
    - `accepts`: MODEL string → whether it is of this kind.
    - `complete`: the beginning of a MODEL string → whole ones, for shell completion.
    - `open`: MODEL string, arguments of the model's constructor and trust → what the model is.
    - `workshop`: MODEL string → who works on such models; without data yet.
    - `package`, `extra`: what it needs, and podar's extra that brings it; "" where it needs nothing.
    - `runs_code`: opening such a model runs a file of the user's.
    - `on_disk`: the part of the MODEL string behind the colon names a file or folder.
    """

    form: str
    help: str
    accepts: Callable[[str], bool]
    complete: Callable[[str], Iterable[str]]
    open: Opener = field(repr=False)
    workshop: Callable[[str], Workshop] = field(default=_own_workshop, repr=False)
    package: str = ""
    extra: str = ""
    runs_code: bool = False
    on_disk: bool = False

    def opened(self, model: str, model_args: dict[str, Any], trust: bool) -> Source:
        """What the model is: `open`, where the package that it needs is installed.

        **Raises:** `PodarError` where it is not, with podar's extra that brings it.
        """
        if self.missing:
            raise PodarError(self.missing)
        return self.open(model, model_args, trust)

    @property
    def missing(self) -> str:
        """What is missing to open such models, and how to get it; "" where nothing is."""
        return absence(self.package, self.extra)


_libraries: dict[str, Library] = {}


def library(
    form: str,
    *,
    help: str,
    accepts: Callable[[str], bool],
    complete: Callable[[str], Iterable[str]],
    workshop: Callable[[str], Workshop] = _own_workshop,
    package: str = "",
    extra: str = "",
    runs_code: bool = False,
    on_disk: bool = False,
) -> Callable[[Opener], Opener]:
    """Register a function `(model, model_args, trust) → Source` for the MODEL strings that `accepts` takes.

    **Arguments:** as the fields of `Library`.

    **Raises:** `UsageError` where another library has the same form.
    """

    def register(opener: Opener) -> Opener:
        if form in _libraries:
            raise UsageError(f"two model libraries are written {form!r}: give one of them another form.")
        _libraries[form] = Library(form, help, accepts, complete, opener, workshop, package, extra, runs_code, on_disk)
        return opener

    return register


def unregister(form: str) -> None:
    """Take a library out of the register: for tests, and for programs that brought one for a while."""
    del _libraries[form]


def libraries() -> list[Library]:
    """Every model library, in the order of the files' names."""
    _import_files()
    return list(_libraries.values())


@cache
def _import_files() -> None:
    """Import every file of this folder once: so each library registers itself by being there."""
    for found in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda found: found.name):
        if not found.ispkg:
            importlib.import_module(f"podar.libraries.{found.name}")


def find_library(model: str) -> Library | None:
    """The library that a MODEL string is of, or None."""
    return next((library for library in libraries() if library.accepts(model)), None)


def workshop_of(model: str) -> Workshop:
    """Who works on the model that a MODEL string names: its library's workshop, podar's own for what no library has."""
    found = find_library(model)
    return _own_workshop(model) if found is None else found.workshop(model)
