"""The register of data sources: one file of this folder a source, each declared by `data_source`, found by `find`.

A new source is one new file here with one decorated function; nothing else changes: the command's help, completion and
the error for a missing package are derived. The files import torch inside their functions, so that listing them costs
nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from podar.errors import PodarError, UsageError, absence, nearest

if TYPE_CHECKING:
    from torch import Tensor

    from podar.data.pictures.pixels import Pixels


@dataclass(frozen=True, eq=False)
class Part:
    """Pictures with labels as they were found: `shape` is (C, H, W), `labels` class numbers [N]."""

    pixels: Pixels
    labels: Tensor
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Found:
    """What a data source reads: parts under "train", "test", "validation", or one under "all" that is to be split.

    `classes`: names by class number; none where the pictures have no labels. `flip`: whether a mirror
    image is of the same class.
    """

    name: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...]
    flip: bool = True


Reader = Callable[[str, "int | None", "int | None"], Found]
"""`(spec, image_size, channels) → Found`. Pictures in memory are converted later; files are decoded to the size."""


@dataclass(frozen=True)
class DataSource:
    """One kind of DATA string.

    - `form`: how help and messages write it, such as `FILE.npz`; `help`: what it is, in a few words.
    - `accepts`: DATA string → whether this source reads it. `read`: reads it.
    - `names`, `suffixes`: the names, and the endings of files, that shell completion offers.
    - `package`, `extra`: what it needs, and podar's extra that brings it; "" where it needs nothing.
    - `general`: it is asked last, since it takes what others know better, such as any folder.
    """

    form: str
    help: str
    accepts: Callable[[str], bool]
    read: Reader = field(repr=False)
    names: tuple[str, ...] = ()
    suffixes: tuple[str, ...] = ()
    package: str = ""
    extra: str = ""
    general: bool = False

    @property
    def missing(self) -> str:
        """What is missing to read such data, and how to get it; "" where nothing is."""
        return absence(self.package, self.extra)


_sources: dict[str, DataSource] = {}


def data_source(
    form: str,
    *,
    help: str,
    accepts: Callable[[str], bool],
    names: Iterable[str] = (),
    suffixes: Iterable[str] = (),
    package: str = "",
    extra: str = "",
    general: bool = False,
) -> Callable[[Reader], Reader]:
    """Register a function `(spec, image_size, channels) → Found` for the DATA strings that `accepts` takes.

    **Arguments:** as the fields of `DataSource`.

    **Raises:** `UsageError` where another source has the same form.
    """

    def register(read: Reader) -> Reader:
        if form in _sources:
            raise UsageError(f"two data sources are written {form!r}: give one of them another form.")
        _sources[form] = DataSource(form, help, accepts, read, tuple(names), tuple(suffixes), package, extra, general)
        return read

    return register


def unregister(form: str) -> None:
    """Take a source out of the register: for tests, and for programs that brought one for a while."""
    del _sources[form]


def data_sources() -> list[DataSource]:
    """Every data source, in the order of the files' names, those that take anything last."""
    _import_files()
    return sorted(_sources.values(), key=lambda source: source.general)


@cache
def _import_files() -> None:
    """Import every file of this folder once: so each data source registers itself by being there."""
    for found in sorted(pkgutil.iter_modules([str(Path(__file__).parent)]), key=lambda found: found.name):
        if not found.ispkg:
            importlib.import_module(f"podar.data.{found.name}")


def find_data_source(spec: str) -> DataSource | None:
    """The source that reads a DATA string, or None."""
    return next((source for source in data_sources() if source.accepts(spec)), None)


def read(spec: str, image_size: int | None, channels: int | None) -> Found:
    """Read a data set as it is found; `podar.data.load` checks, splits and standardises it.

    **Raises:** `PodarError` where there is none of this name or path, a package is missing, or as the source.
    """
    source = find_data_source(spec)
    if source is None:
        raise PodarError(_unknown(spec))
    if source.missing:
        raise PodarError(source.missing)
    return source.read(spec, image_size, channels)


def complete_data(incomplete: str) -> list[str]:
    """Every DATA that begins so, for shell completion: names, files that a source reads, and folders."""
    suffixes = {suffix for source in data_sources() for suffix in source.suffixes}
    names = [name for source in data_sources() for name in source.names]
    beginning = Path(incomplete or ".").expanduser()
    folder = beginning if not incomplete or incomplete.endswith("/") else beginning.parent
    written = incomplete[: incomplete.rfind("/") + 1]
    paths: list[str] = []
    if folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.name.startswith("."):
                continue
            if path.is_dir():
                paths.append(f"{written}{path.name}/")
            elif path.suffix in suffixes:
                paths.append(f"{written}{path.name}")
    return [choice for choice in names + paths if choice.startswith(incomplete)]


def _unknown(spec: str) -> str:
    path = Path(spec).expanduser()
    if path.exists():
        forms = ", ".join(source.form for source in data_sources())
        return f"{spec} is no data set that podar reads: give one of {forms}."
    names = [name for source in data_sources() for name in source.names]
    beside: Mapping[str, str] = (
        {near.name: str(Path(spec).with_name(near.name)) for near in path.parent.iterdir()}
        if path.parent.is_dir()
        else {}
    )
    near = nearest(spec, names) or beside.get(nearest(path.name, beside) or "")
    if near:
        return f"there is no data set or path {spec!r}; did you mean {near}?"
    return f"there is no data set or path {spec!r}: names are {', '.join(names)}; a path is an image folder or a .npz."
