"""Summary: what summary.json holds, typed; and its one reader, which takes nothing for granted of anybody's file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from podar.errors import PodarError
from podar.trust.models import validated
from podar.trust.plain import Unreadable, read_json

SUMMARY = "summary.json"

Count = Annotated[int, Field(strict=True)]
Number = Annotated[int, Field(strict=True)] | Annotated[float, Field(strict=True)]
Text = Annotated[str, StringConstraints(max_length=1 << 16)]
Many = Field(default=(), max_length=1 << 20)


@dataclass(frozen=True)
class Layer:
    """One group of the model: how many units (`kind`: channels, heads, …) it had and has."""

    name: str
    before: int
    after: int
    kind: str = "channels"


@dataclass(frozen=True)
class Frozen:
    """One axis that could not be cut, and why: dimension `dim` of the tensor `name`."""

    name: str
    dim: int
    reason: str


@dataclass(frozen=True)
class Point:
    """One state of the model on the way: accuracy as a fraction, MACs of one input, median latency where measured.

    `stage` is `"dense"`, `"cut"`, `"final"` or, for models that only stand beside ours, `"peer"`.
    """

    name: str
    stage: str
    accuracy: float
    macs: int
    latency_ms: float | None = None


class _Plain(BaseModel):
    """Plain data: a stage may add keys of its own, which stay as they are."""

    model_config = ConfigDict(extra="allow", frozen=True, arbitrary_types_allowed=False)

    def plain(self) -> dict[str, Any]:
        """As JSON holds it: what was never set is absent."""
        return self.model_dump(mode="json", exclude_unset=True)


class Latency(_Plain):
    """Milliseconds of one run, in the runtime that serves the file."""

    p50: Number
    p95: Number | None = None
    runtime: Text = ""
    threads: Count | None = None


class Half(_Plain):
    """The figures of one model: of the dense one before the run, or of the one after it.

    `macs` and `params` are counted, `bytes`, `memory_bytes`, `latency_ms` and `energy_joules` are measured on the
    deployable file, `accuracy` (detectors: `map50`, `map50_95`) is a fraction. Without labels `agreement` is the share
    of inputs on which a classifier says what the dense one said, and `output_error` how far its outputs are off, as a
    share of their size. What is not known is None or absent.
    """

    params: Count | None = None
    macs: Count | None = None
    bytes: Count | None = None
    memory_bytes: Count | None = None
    accuracy: Number | None = None
    latency_ms: Latency | None = None


class PictureFile(_Plain):
    """A test picture in the run's folder, its true class, and what both models said."""

    file: Text
    label: Text
    before: Text
    before_confidence: Number
    after: Text
    after_confidence: Number


class SceneFile(_Plain):
    """A test picture in the run's folder with both models' answers drawn in."""

    file: Text
    caption: Text


class ExportedFiles(_Plain):
    """The pruned and the dense model in one format, by their paths from the run's folder."""

    file: Text
    dense_file: Text
    parity: Number | None = None


class Summary(_Plain):
    """The summary of a run, so far or whole. Beside these keys each stage has its own, such as `sparsity`.

    ```python
    summary = read("runs/demo")
    summary.after.macs, summary.own("sparsity")
    ```
    """

    before: Half = Half()
    after: Half = Half()
    command: Text = ""
    versions: dict[str, Text] = {}
    title: Text = "model"
    latency_ratio: Number | None = None
    facts: dict[str, Text] = {}
    layers: tuple[Layer, ...] = Many
    frozen: tuple[Frozen, ...] = Many
    points: tuple[Point, ...] = Many
    history: tuple[dict[str, Number], ...] = Many
    pictures: tuple[PictureFile, ...] = Many
    scenes: tuple[SceneFile, ...] = Many
    exports: dict[str, ExportedFiles] = {}
    stages: dict[str, Number] = {}
    notes: tuple[Text, ...] = Many
    recipe: dict[str, Any] = {}

    def own(self, key: str) -> Any:
        """What a stage added under a key of its own; None where none did."""
        return (self.model_extra or {}).get(key)


def parse(data: Any, of: str) -> Summary:
    """A summary from plain data.

    **Arguments:** `of`: the file that they come from, for messages.

    **Raises:** `PodarError` that names the first thing that is wrong.
    """
    try:
        return validated(Summary, data)
    except Unreadable as error:
        raise PodarError(f"{of} is damaged ({error}): run the recipe again.") from error


def read(folder: str | Path) -> Summary:
    """The summary of a finished run.

    **Raises:** `PodarError` where the folder holds no finished run, or its summary is damaged.
    """
    return parse(_data(Path(folder)), str(Path(folder) / SUMMARY))


def read_plain(folder: str | Path) -> dict[str, Any]:
    """The same as plain data, exactly as summary.json holds them; checked as by `read`.

    **Raises:** `PodarError` as `read`.
    """
    data = _data(Path(folder))
    parse(data, str(Path(folder) / SUMMARY))
    return data


def _data(folder: Path) -> dict[str, Any]:
    path = folder / SUMMARY
    try:
        data = read_json(path, nan=True)  # a loss may be NaN
    except FileNotFoundError as error:
        raise PodarError(f"{folder} holds no finished run: there is no {SUMMARY} in it.") from error
    except Unreadable as error:
        raise PodarError(f"{path} cannot be read ({error}): run the recipe again.") from error
    if not isinstance(data, dict):
        raise PodarError(f"{path} is damaged (no JSON object): run the recipe again.")
    missing = next((key for key in ("before", "after", "command", "versions") if key not in data), None)
    if missing is not None:
        raise PodarError(f"{path} is damaged ({missing} is missing): run the recipe again.")
    return data
