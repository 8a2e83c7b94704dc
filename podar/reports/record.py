"""RunRecord: everything that the report shows, as plain data, read from a run folder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from podar.errors import PodarError, first_line
from podar.reports.summary import SUMMARY, Frozen, Layer, Point, Summary, parse, read

_PICTURE_BYTES = 32 << 20


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
    - `own`: what stages added to the summary under keys of their own; their sections show it.
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
    own: Mapping[str, Any] = field(default_factory=dict)
    stages: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def detector(self) -> bool:
        """Whether the model's quality is told in mean average precision, and not as accuracy."""
        return "map50_95" in self.after

    @property
    def quality(self) -> str:
        """What the model's quality is called."""
        known = {"map50_95": "mAP 50–95", "agreement": "agreement with dense"}
        return next((name for key, name in known.items() if key in self.after), "accuracy")

    @staticmethod
    def from_folder(folder: str | os.PathLike[str]) -> RunRecord:
        """Read the record of a finished run from its summary.json and the pictures that this names.

        **Raises:** `PodarError` where the folder holds no finished run, or its summary is damaged.
        """
        return RunRecord.from_summary(read(Path(folder)), Path(folder))

    @staticmethod
    def from_summary(data: Summary | Mapping[str, Any], folder: Path) -> RunRecord:
        """The record of the object that summary.json holds; `folder` is where its pictures lie.

        **Raises:** `PodarError` where the object is damaged, or a picture is missing.
        """
        of = folder / SUMMARY
        summary = data if isinstance(data, Summary) else parse(data, str(of))
        return RunRecord(
            before=summary.before.plain(),
            after=summary.after.plain(),
            command=summary.command,
            versions=summary.versions,
            title=summary.title,
            latency_ratio=summary.latency_ratio,
            facts=summary.facts,
            layers=summary.layers,
            frozen=summary.frozen,
            points=summary.points,
            history=summary.history,
            pictures=tuple(
                Picture(
                    _inside(folder, shown.file),
                    shown.label,
                    shown.before,
                    shown.before_confidence,
                    shown.after,
                    shown.after_confidence,
                )
                for shown in summary.pictures
            ),
            scenes=tuple(Scene(_inside(folder, shown.file), shown.caption) for shown in summary.scenes),
            own=summary.model_extra or {},
            stages=summary.stages,
            notes=summary.notes,
        )


def _inside(folder: Path, name: str) -> bytes:
    """A picture of a run folder, which the page will hold: nothing from elsewhere, not by a link either."""
    path = folder / name
    try:
        if not path.resolve().is_relative_to(folder.resolve()):
            raise PodarError(f"{folder / SUMMARY} names {name[:200]}, which lies outside its folder.")
        if path.stat().st_size > _PICTURE_BYTES:
            raise PodarError(f"the picture {path} is larger than {_PICTURE_BYTES >> 20} MB: remove it.")
        content = path.read_bytes()
    except (OSError, RuntimeError) as error:  # a loop of links, a name that is too long
        reason = getattr(error, "strerror", None) or first_line(error)
        raise PodarError(f"{folder / SUMMARY} names {name[:200]}, which cannot be read ({reason}).") from error
    if not content.startswith(b"\x89PNG"):
        raise PodarError(f"{path} is no picture of a run (PNG): run the recipe again.")
    return content
