"""The registry of export formats: a format is one function that writes a file and reloads it in its runtime."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from podar.errors import UsageError, nearest
from podar.formats.flat import Flat


@dataclass(frozen=True)
class Options:
    """What the caller wants of the file; a format that has no such choice ignores it."""

    dynamic_batch: bool = True
    opset: int | None = None
    verbose: bool = False


@dataclass(frozen=True)
class Reloaded:
    """A written file, opened again in the runtime that will serve it.

    - `run(tensors)`: the file's outputs for the model's flat input tensors, in the order of `Flat.output_names`.
    - `runtime`: name and version.
    - `dynamic_batch`: whether it takes other batch sizes than the example's.
    - `writer`: what wrote it, e.g. "torch.export".
    """

    run: Callable[[Sequence[Tensor]], list[Tensor]]
    runtime: str
    dynamic_batch: bool
    writer: str


# Yields to the caller one way after another to write the file, best first: each call writes and reloads.
Attempt = Callable[[], Reloaded]
Write = Callable[[Flat, Path, Options], "list[Attempt]"]


@dataclass(frozen=True)
class Format:
    """`write(flat, path, options)` gives the ways to write the file at `path`, best first; each, when called, writes
    it and reloads it. `sidecar` is the ending of a second file that may travel beside it."""

    name: str
    suffix: str
    sidecar: str | None
    write: Write


FORMATS: dict[str, Format] = {}


def file_format(name: str, *, suffix: str, sidecar: str | None = None) -> Callable[[Write], Write]:
    """Register a format's `write` function under its name and the suffix of its files.

    `sidecar`: what replaces the suffix in the second file's name (".bin"), or follows it ("+.data").
    """

    def register(write: Write) -> Write:
        FORMATS[name] = Format(name, suffix, sidecar, write)
        return write

    return register


def choose(path: Path, name: str | None) -> Format:
    """The format of that name, or the one that the path's suffix tells.

    **Raises:** `UsageError` for an unknown name or suffix.
    """
    if name is not None:
        if name not in FORMATS:
            near = nearest(name, FORMATS)
            raise UsageError(
                f"unknown export format {name!r}: {f'did you mean {near}? ' if near else ''}there are {_list()}."
            )
        return FORMATS[name]
    for candidate in FORMATS.values():
        if path.suffix.lower() == candidate.suffix:
            return candidate
    raise UsageError(f"cannot tell the format of {path} from its suffix: end it in one of {_list()}, or give format=.")


def _list() -> str:
    return ", ".join(f"{f.name} ({f.suffix})" for f in FORMATS.values())
