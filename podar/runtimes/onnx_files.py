"""What an ONNX file stores, read from its bytes without the package onnx: its tensors, and the files that hold them.

An ONNX file may keep its weights in other files, which it names. Such a name that leads out of the model's folder is
refused here, before any runtime reads it.
"""

from __future__ import annotations

import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from podar.errors import PodarError

# Numbers of fields in onnx.proto: by kind of message, those that lead to tensors, and the kind of message they hold.
_INTO = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor"},
}
_FLOATS = {1, 10, 11, 16}  # float, float16, double, bfloat16
_SAID = "{} keeps weights in {!r}, which is no file of its own folder: such a file is not opened."
_VARINT, _BYTES = 0, 2
_SIZES = {1: 8, 5: 4, 3: 0, 4: 0}  # other ways to write a field, by their number: bytes of a value, marks of a group


@dataclass(frozen=True)
class Stored:
    """One tensor: the number of its type in onnx.proto, its sizes, and the files that it is said to lie in."""

    kind: int
    dims: tuple[int, ...]
    locations: tuple[str, ...]


def stored(file: Path) -> list[Stored]:
    """Every tensor that an ONNX file stores: initialisers, constants, those of graphs inside nodes.

    **Raises:** `ValueError` for what is no protobuf message.
    """
    with file.open("rb") as opened:
        if not opened.seek(0, 2):
            return []
        data = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ)  # weights are passed over, and not read
    return list(_tensors(memoryview(data)))


def count_weights(file: Path) -> int | None:
    """How many floating-point numbers an ONNX file stores; None for what is no ONNX file, or stores none."""
    try:
        return sum(math.prod(tensor.dims) for tensor in stored(file) if tensor.kind in _FLOATS) or None
    except ValueError:
        return None


def refuse_outside(file: Path) -> None:
    """Let an ONNX file pass whose weights lie in its own folder; what is no ONNX file passes, too.

    **Raises:** `PodarError` for weights that are said to lie elsewhere (by "..", an absolute path, or a link), or in
    what is no plain file.
    """
    try:
        locations = {location for tensor in stored(file) for location in tensor.locations}
    except ValueError:
        return  # the runtime says what is wrong with it
    for location in sorted(locations):
        parts = PureWindowsPath(location)  # knows both kinds of slash
        if parts.anchor or ".." in parts.parts or not in_folder(file, location):
            raise PodarError(_SAID.format(file, location[:200]))


def in_folder(file: Path, name: str) -> bool:
    """Whether a name beside a file means nothing else than a plain file in its folder. It need not be there."""
    homes = [file.parent.resolve(), file.resolve().parent]  # caches keep files that are links into one other folder
    place = file.parent / name
    try:
        inside = any(place.resolve().is_relative_to(home) for home in homes)
        return inside and (place.is_file() or not place.exists())
    except (OSError, ValueError, RuntimeError):  # NUL in the name, a name that is too long, links in a circle
        return False


def refuse_sidecar(file: Path, sidecar: Path) -> None:
    """Let a file pass whose second file is a plain one in its folder, or is not there.

    **Raises:** `PodarError`.
    """
    if not in_folder(file, sidecar.name):
        raise PodarError(_SAID.format(file, sidecar.name))


def _tensors(data: memoryview) -> Iterator[Stored]:
    waiting = [("model", data)]
    while waiting:
        kind, message = waiting.pop()
        if kind == "tensor":
            yield _tensor(message)
            continue
        for number, value in _fields(message):
            inner = _INTO[kind].get(number)
            if inner is not None and isinstance(value, memoryview):
                waiting.append((inner, value))


def _tensor(message: memoryview) -> Stored:
    dims: list[int] = []
    kind, locations = 0, []
    for number, value in _fields(message):
        if number == 1:
            dims += [value] if isinstance(value, int) else _varints(value)
        elif number == 2 and isinstance(value, int):
            kind = value
        elif number == 13 and isinstance(value, memoryview):
            entry = {
                n: bytes(v).decode("utf-8", "surrogateescape") for n, v in _fields(value) if not isinstance(v, int)
            }
            if entry.get(1) == "location":
                locations.append(entry.get(2, ""))
    return Stored(kind, tuple(dims), tuple(locations))


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """The fields of a protobuf message: their numbers and values."""
    at = 0
    while at < len(message):
        key, at = _varint(message, at)
        how = key & 7
        if how == _VARINT:
            value, at = _varint(message, at)
            yield key >> 3, value
            continue
        size, at = _varint(message, at) if how == _BYTES else (_SIZES.get(how, -1), at)
        if size < 0 or at + size > len(message):
            raise ValueError("no protobuf message")
        if how == _BYTES:
            yield key >> 3, message[at : at + size]
        at += size


def _varints(packed: memoryview) -> list[int]:
    found, at = [], 0
    while at < len(packed):
        value, at = _varint(packed, at)
        found.append(value)
    return found


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, the lowest first, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise ValueError("no protobuf message")
