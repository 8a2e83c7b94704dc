"""Tables of measured layers: one for each processor, runtime and number of threads, as a JSON file."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podar.errors import PodarError, UsageError
from podar.files import write_atomic
from podar.latency.timing import TABLE
from podar.trust.plain import Unreadable, read_json


@dataclass
class Table:
    """How many milliseconds each layer took.

    **Attributes:**

    - `runtime`: name and version, as "onnxruntime 1.32.0"; `threads`; `processor`: its name.
    - `layers`: milliseconds by the layer's name.
    - `path`: where it is kept; None: nowhere.
    """

    runtime: str
    threads: int
    processor: str
    layers: dict[str, float] = field(default_factory=dict)
    path: Path | None = None

    def save(self, path: Path) -> None:
        """Write the table as JSON.

        **Raises:** `PodarError`: it cannot be written.
        """
        own = {"runtime": self.runtime, "threads": self.threads, "processor": self.processor, "layers": self.layers}
        write_atomic(path, json.dumps({"podar_table": TABLE, **own}, indent=1) + "\n")

    def keep(self) -> None:
        """Write the table where it is kept. Where that cannot be written to, everything is measured again next time."""
        if self.path is not None:
            with contextlib.suppress(OSError, PodarError):
                self.path.parent.mkdir(parents=True, exist_ok=True)
                self.save(self.path)


def kept_table(runtime: str, threads: int, processor: str) -> Table:
    """The table of this machine, with what was measured earlier; it is kept in podar's cache.

    **Arguments:** `runtime`: name and version.
    """
    cache = Path(
        os.environ.get("PODAR_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podar"
    )
    name = hashlib.sha256(repr((runtime, threads, processor)).encode()).hexdigest()[:16]
    path = cache / "latency" / f"{name}.json"
    empty = Table(runtime, threads, processor, path=path)
    try:
        found = read_table(path)
    except PodarError:
        return empty  # there is none yet, or it is damaged: the layers are measured again
    same = (found.runtime, found.threads, found.processor) == (runtime, threads, processor)
    return Table(runtime, threads, processor, found.layers, path) if same else empty


def read_table(path: str | os.PathLike[str]) -> Table:
    """The table in a file.

    **Raises:** `PodarError`: there is none, or it is damaged.
    """
    try:
        data = read_json(Path(path))
    except FileNotFoundError as error:
        raise PodarError(
            f"there is no table {os.fspath(path)}: podar profile MODEL --runtime onnxruntime --out {os.fspath(path)} "
            "writes one"
        ) from error
    except Unreadable as error:
        raise PodarError(
            f"the table {os.fspath(path)} cannot be read ({error}): write it again with podar profile"
        ) from error
    wrong = _wrong(data)
    if wrong:
        raise PodarError(f"the table {os.fspath(path)} is damaged ({wrong}): write it again with podar profile")
    return Table(data["runtime"], data["threads"], data["processor"], {k: float(v) for k, v in data["layers"].items()})


def _wrong(data: Any) -> str:
    """What is wrong with the plain data of a table; empty where nothing is."""
    if not isinstance(data, dict) or data.get("podar_table") != TABLE:
        return "it is no table of layers"
    if not all(isinstance(data.get(key), str) for key in ("runtime", "processor")):
        return "its runtime or processor is missing"
    if type(data.get("threads")) is not int or data["threads"] < 1:
        return "its number of threads is missing"
    layers = data.get("layers")
    if not isinstance(layers, dict) or not layers:
        return "it holds no layers"
    for name, took in layers.items():
        if isinstance(took, bool) or not isinstance(took, (int, float)) or not math.isfinite(took) or took < 0:
            return f"the time of {name!r} is no time"
    return ""


def check_table(table: Table, path: str | os.PathLike[str], runtime: str, threads: int) -> None:
    """Refuse a table that was measured in another way than is asked for.

    **Raises:** `UsageError`.
    """
    where = f"the table {os.fspath(path)} was measured"
    if table.runtime.partition(" ")[0] != runtime:
        raise UsageError(f"{where} in {table.runtime}, and the runtime that is asked for is {runtime}")
    if table.threads != threads:
        raise UsageError(f"{where} on {_threads(table.threads)}, and {_threads(threads)} is asked for (threads=)")


def _threads(number: int) -> str:
    return f"{number} thread{'s' if number != 1 else ''}"
