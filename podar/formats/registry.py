"""The register of export formats: each is one function that writes a file, and the runtime that checks it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from podar.errors import UsageError, absence, did_you_mean, require
from podar.formats.flat import Flat
from podar.runtimes import RUNTIMES
from podar.runtimes.register import runtime_named


@dataclass(frozen=True)
class WritingOptions:
    """What the caller wants of the file; a format that has no such choice ignores it."""

    dynamic_batch: bool = True
    opset: int | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Written:
    """A file that was written.

    - `writer`: what wrote it, e.g. "torch.export".
    - `dynamic_batch`: whether it takes other batch sizes than the example's.
    """

    writer: str
    dynamic_batch: bool


# One way to write the file: it writes it when it is called.
Attempt = Callable[[], Written]
Write = Callable[[Flat, Path, WritingOptions], "list[Attempt]"]


@dataclass(frozen=True)
class Format:
    """One deployable format.

    - `suffix`: the ending of its files; `runtime`: the name of the runtime that opens them, which also says what may
      lie beside them.
    - `help`: what it is for, in a few words.
    - `packages`, `extra`: what is imported to write it, and podar's extra that brings it.
    - `write(flat, path, options)`: the ways to write the file at `path`, best first.
    """

    name: str
    suffix: str
    runtime: str
    help: str
    packages: tuple[str, ...]
    extra: str
    write: Write

    def attempts(self, flat: Flat, path: Path, options: WritingOptions) -> list[Attempt]:
        """The ways to write the file, best first.

        **Raises:** `PodarError` where a package is missing that writes or opens it.
        """
        for package in self.packages:
            require(package, self.extra)
        RUNTIMES[self.runtime].imported()
        return self.write(flat, path, options)

    def sidecars(self, path: Path) -> Iterator[Path]:
        """The files that may travel beside the file at `path`."""
        return (path.with_suffix(ending) for ending in RUNTIMES[self.runtime].sidecars)


_formats: dict[str, Format] = {}
FORMATS: Mapping[str, Format] = _formats
"""Every format by its name."""


def file_format(
    name: str,
    *,
    suffix: str,
    runtime: str,
    help: str = "",
    packages: tuple[str, ...] = (),
    extra: str | None = None,
) -> Callable[[Write], Write]:
    """Register a function `write(flat, path, options)` as a format; `Format` says what the arguments mean.

    `extra`: None where it is called like the format.
    """

    def register(write: Write) -> Write:
        _formats[name] = Format(name, suffix, runtime, help, packages, extra or name, write)
        return write

    return register


def unregister(name: str) -> None:
    """Take a format out of the register again."""
    del _formats[name]


def liked_widths(names: Iterable[str]) -> int:
    """The multiple of channels at which the runtimes of these formats are fastest; 8 where none of them tells."""
    told = [RUNTIMES[FORMATS[name].runtime].widths for name in names if name in FORMATS]
    return math.lcm(*told) if any(widths > 1 for widths in told) else 8


def measured_in(runtime: str | None) -> tuple[str, str]:
    """A runtime, and the format in which models are written for it.

    **Arguments:** `runtime`: None: the first whose packages, and those that write its files, are installed.

    **Raises:** `UsageError` where there is no such runtime, or no format is written for it.

    ```python
    >>> measured_in("torch")
    ('torch', 'pt2')

    ```
    """
    chosen = None if runtime is None else runtime_named(runtime)
    for kind in FORMATS.values():
        own = RUNTIMES[kind.runtime]
        here = not any(absence(package, kind.extra) for package in (*kind.packages, own.package))
        if own is chosen or (chosen is None and here):
            return own.name, kind.name
    raise UsageError(f"no format is written for the runtime {runtime}: name one of {', '.join(RUNTIMES)}.")


def format_for(path: Path, name: str | None) -> Format:
    """The format of that name, or the one that the path's suffix tells.

    **Raises:** `UsageError` for an unknown name or suffix.
    """
    if name is not None:
        if name not in FORMATS:
            raise UsageError(f"unknown export format {name!r}{did_you_mean(name, FORMATS, list_all=True)}")
        return FORMATS[name]
    for candidate in FORMATS.values():
        if path.suffix.lower() == candidate.suffix:
            return candidate
    raise UsageError(f"cannot tell the format of {path} from its suffix: end it in one of {_list()}, or give format=.")


def _list() -> str:
    return ", ".join(f"{f.name} ({f.suffix})" for f in FORMATS.values())
