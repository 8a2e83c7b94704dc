"""Reads JSON and YAML that anybody may have written: plain data within bounds, or one sentence about what is wrong."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import yaml

from podar.errors import PodarError

JSON_BYTES = 256 << 20  # a plan of a large model has some megabytes
YAML_BYTES = 1 << 20  # read by Python: a second or two
_DEPTH = 64
_NODES = 200_000  # of a YAML file, those behind aliases counted wherever they are used


class Unreadable(ValueError):
    """What is wrong with a text, in a few words without a full stop."""


def loads_json(text: str | bytes, nan: bool = False) -> Any:
    """The data that a JSON text holds.

    **Arguments:** `nan`: take NaN and Infinity, which Python writes and JSON does not know.

    **Raises:** `Unreadable` for anything but one JSON value: also for a key that stands twice in an object, numbers
    beyond what a float or a program's integer holds, NUL and halves of surrogate pairs, and nesting that is too deep.
    """
    try:
        text = text.decode() if isinstance(text, bytes) else text
        data = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=float if nan else _no_number,
            parse_float=_float,
            parse_int=_int,
        )
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise Unreadable("it is not text in UTF-8") from None
    except json.JSONDecodeError as error:
        raise Unreadable(f"it is no JSON: {error}") from None
    if "\\u" in text:  # only so can a text in UTF-8 hold what is no character
        _check_texts(data)
    _check_depth(data)
    return data


def read_json(path: str | os.PathLike[str], nan: bool = False) -> Any:
    """The data of a JSON file; arguments as of `loads_json`.

    **Raises:** `FileNotFoundError`; `Unreadable` as `loads_json`, and for a file that is too large or cannot be read.
    """
    return loads_json(read_bytes(Path(path), JSON_BYTES), nan)


def read_yaml(path: str | os.PathLike[str]) -> Any:
    """The data of a YAML file.

    **Raises:** `PodarError` for a missing file, one that is too large or is not YAML, a key that stands twice, aliases
    that unfold to too much, or nesting that is too deep.
    """
    try:
        return loads_yaml(read_bytes(Path(path), YAML_BYTES))
    except FileNotFoundError:
        raise PodarError(f"there is no file {path}.") from None
    except Unreadable as error:
        raise PodarError(f"{path} cannot be read as YAML: {error}.") from None


def loads_yaml(text: str | bytes) -> Any:
    """The data that a YAML text holds: those of YAML's safe tags.

    **Raises:** `Unreadable`, as `read_yaml`.
    """
    try:
        text = text.decode("utf-8-sig") if isinstance(text, bytes) else text
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _unfolded(node, {}, 0)
            data = loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise Unreadable("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise Unreadable("it is not text in UTF-8") from None
    except Unreadable:
        raise
    except (yaml.YAMLError, ValueError, OverflowError, TypeError) as error:
        raise Unreadable(" ".join(str(error).split())[:300].rstrip(".")) from None
    _check_texts(data)
    return data


class _Loader(yaml.SafeLoader):
    """YAML's safe tags; a key may stand once in a mapping."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"]
        repeated = next((key for place, key in enumerate(keys) if isinstance(key, str) and key in keys[:place]), None)
        if repeated is not None and len(keys) <= 5000:
            raise Unreadable(f"the key {repeated[:80]!r} stands twice")
        return super().construct_mapping(node, deep)


def _unfolded(node: Any, known: dict[int, int], depth: int) -> int:
    """How many nodes are under a node, aliases followed; a node within itself, or too many of them, is refused."""
    if depth > _DEPTH:
        raise Unreadable("it is nested too deeply")
    if id(node) in known:
        if known[id(node)] == 0:
            raise Unreadable("an alias refers to what it stands in")
        return known[id(node)]
    known[id(node)] = 0
    total = 1
    if isinstance(node, yaml.SequenceNode):
        total += sum(_unfolded(item, known, depth + 1) for item in node.value)
    elif isinstance(node, yaml.MappingNode):
        total += sum(_unfolded(part, known, depth + 1) for pair in node.value for part in pair)
    if total > _NODES:
        raise Unreadable("its aliases unfold to too much" if len(known) < _NODES else "it holds too much")
    known[id(node)] = total
    return total


def read_bytes(path: Path, most: int) -> bytes:
    """The bytes of a file.

    **Raises:** `FileNotFoundError`; `Unreadable` for more than `most` bytes, and for what cannot be read.
    """
    try:
        with path.open("rb") as file:
            found = file.read(most + 1)
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a folder; a name with NUL
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from error
    if len(found) > most:
        raise Unreadable(f"it is larger than {most >> 20} MB")
    return found


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        repeated = next(key for key, _ in pairs if key in seen or seen.add(key))
        raise Unreadable(f"the key {repeated[:80]!r} stands twice in one object")
    return found


def _no_number(word: str) -> Any:
    raise Unreadable(f"{word} is no number")


def _float(word: str) -> float:
    value = float(word)
    if not math.isfinite(value):
        raise Unreadable(f"the number {word[:40]} is too large")
    return value


def _int(word: str) -> int:
    if len(word) > 20:
        raise Unreadable(f"the number {word[:40]} is too large")
    return int(word)


def _check_depth(data: Any) -> None:
    level, depth = [data], 0
    while level:
        depth += 1
        if depth > _DEPTH:
            raise Unreadable("it is nested too deeply")
        inner: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                inner += [item for item in value.values() if isinstance(item, (dict, list))]
            elif value and isinstance(value, list) and not isinstance(value[0], int):
                inner += [item for item in value if isinstance(item, (dict, list))]
        level = inner


def _check_texts(data: Any) -> None:
    """Refuse texts with NUL, or with halves of surrogate pairs, which no file can be written with."""
    seen: set[int] = set()
    pending = [data]
    while pending:
        value = pending.pop()
        if isinstance(value, str):
            if "\0" in value or any("\ud800" <= letter <= "\udfff" for letter in value):
                raise Unreadable(f"the text {value[:40]!a} holds what is no character")
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            pending += value
            if isinstance(value, dict):
                pending += value.values()
