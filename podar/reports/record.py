"""RunRecord: everything that the report shows, as plain data, read from a run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podar.errors import PodarError
from podar.trust.plain import read_json

_PICTURE_BYTES = 32 << 20


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


@dataclass(frozen=True)
class Picture:
    """One test picture (PNG bytes), its true class, and what the model said before and after, with its confidence."""

    png: bytes = field(repr=False)
    label: str
    before: str
    before_confidence: float
    after: str
    after_confidence: float


@dataclass(frozen=True)
class Scene:
    """One test picture twice (PNG bytes), with the answers of the dense model left and of the pruned one right."""

    png: bytes = field(repr=False)
    caption: str


@dataclass(frozen=True)
class RunRecord:
    """What the report shows.

    - `before`, `after`: the two halves of summary.json: `params`, `macs`, `bytes`, `memory_bytes`, `accuracy` and
      `latency_ms` (`p50`, `p95`, `runtime`, `threads`). What was not measured is absent or None and is not shown.
    - `latency_ratio`: after ÷ before of runs in turn; None: that of the two medians is shown.
    - `facts`: label → text, e.g. model, data set, target, processor; shown as they are.
    - `history`: one mapping an epoch of fine-tuning: `epoch`, `loss`, `val_accuracy`, `seconds`, `lr`.
    - `sparsity`, `histogram`, `tickets`: zeros by layer, the weights' values, and the curves of a ticket search, of
      runs that leave zeros.
    - `stages`: seconds by stage. `versions`: by package. `notes`: what the reader should know, one sentence each.
    """

    before: Mapping[str, Any]
    after: Mapping[str, Any]
    command: str
    versions: Mapping[str, str]
    title: str = "model"
    latency_ratio: float | None = None
    facts: Mapping[str, str] = field(default_factory=dict)
    layers: tuple[Layer, ...] = ()
    frozen: tuple[Frozen, ...] = ()
    points: tuple[Point, ...] = ()
    history: tuple[Mapping[str, float], ...] = ()
    pictures: tuple[Picture, ...] = ()
    scenes: tuple[Scene, ...] = ()
    sparsity: Mapping[str, Any] = field(default_factory=dict)
    histogram: Mapping[str, Any] = field(default_factory=dict)
    tickets: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @staticmethod
    def from_folder(folder: str | os.PathLike[str]) -> RunRecord:
        """Read the record of a finished run from its summary.json and the pictures that this names.

        **Raises:** `PodarError` where the folder holds no finished run, or its summary is damaged.
        """
        path = Path(folder) / "summary.json"
        try:
            data = read_json(path, nan=True)  # a loss may have been none
        except FileNotFoundError as error:
            raise PodarError(f"{folder} holds no finished run: there is no summary.json in it.") from error
        except (ValueError, OSError) as error:
            raise PodarError(f"{path} cannot be read ({error}): run the recipe again.") from error
        try:
            return RunRecord.from_summary(data, Path(folder))
        except PodarError:
            raise
        except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
            raise PodarError(f"{path} is damaged ({type(error).__name__}: {error}): run the recipe again.") from error

    @staticmethod
    def from_summary(data: Mapping[str, Any], folder: Path) -> RunRecord:
        """The record of the object that summary.json holds; `folder` is where its pictures lie."""
        pictures = [
            Picture(_inside(folder, shown["file"]), **{k: v for k, v in shown.items() if k != "file"})
            for shown in data.get("pictures", ())
        ]
        scenes = [Scene(_inside(folder, shown["file"]), shown["caption"]) for shown in data.get("scenes", ())]
        return RunRecord(
            before=data["before"],
            after=data["after"],
            command=data["command"],
            versions=data["versions"],
            title=data.get("title", "model"),
            latency_ratio=data.get("latency_ratio"),
            facts=data.get("facts", {}),
            layers=tuple(Layer(**layer) for layer in data.get("layers", ())),
            frozen=tuple(Frozen(**axis) for axis in data.get("frozen", ())),
            points=tuple(Point(**point) for point in data.get("points", ())),
            history=tuple(data.get("history", ())),
            pictures=tuple(pictures),
            scenes=tuple(scenes),
            sparsity=data.get("sparsity", {}),
            histogram=data.get("histogram", {}),
            tickets=data.get("tickets", {}),
            stages=data.get("stages", {}),
            notes=tuple(data.get("notes", ())),
        )


def _inside(folder: Path, name: object) -> bytes:
    """A picture of a run folder, which the page will hold: nothing from elsewhere, not by a link either."""
    path = folder / str(name)
    if not path.resolve().is_relative_to(folder.resolve()):
        raise PodarError(f"{folder / 'summary.json'} names {str(name)[:200]}, which lies outside its folder.")
    if path.stat().st_size > _PICTURE_BYTES:
        raise PodarError(f"the picture {path} is larger than {_PICTURE_BYTES >> 20} MB: remove it.")
    content = path.read_bytes()
    if not content.startswith(b"\x89PNG"):
        raise PodarError(f"{path} is no picture of a run (PNG): run the recipe again.")
    return content
