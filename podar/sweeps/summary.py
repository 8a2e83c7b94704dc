"""What the summary.json of a sweep holds, typed, and its one reader; `sweep.json` beside it says what is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from podar.errors import PodarError
from podar.reports.summary import SUMMARY, Count, Number, Text
from podar.trust.models import Checked, validated
from podar.trust.plain import Unreadable, read_json

SWEEP = "sweep.json"

Name = Annotated[str, StringConstraints(min_length=1, max_length=400)]
# A folder right in the sweep's own: its name is not hidden and leads nowhere else.
Folder = Annotated[str, StringConstraints(pattern=r"^[^./\\\x00][^/\\\x00]*$", max_length=200)]
Many = Field(default=(), max_length=1 << 12)

Kind = Literal["dense", "target", "family", "size"]
Series = Literal["cut", "trained", "dense", "family", "size"]
TITLES: dict[Series, str] = {
    "cut": "right after the cut",
    "trained": "after training",
    "dense": "as it came",
    "family": "other members, untouched",
    "size": "as it came, smaller inputs",
}
COSTS: dict[str, str] = {"macs": "MACs of one input", "latency_ms": "median latency"}


class _Plain(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Planned(_Plain):
    """One point that is asked for: a run in the folder `folder` of the sweep's own.

    - `recipe`: as it was typed. `absolute`: the same with absolute paths, for a sweep that goes on elsewhere.
    """

    name: Name
    kind: Kind
    folder: Folder
    recipe: dict[str, Any]
    absolute: dict[str, Any]


class Asked(_Plain):
    """What is asked of a sweep. `read`: fingerprints of the files that its runs read."""

    kind: Literal["pareto"] = "pareto"
    command: Text
    title: Text
    facts: dict[str, Text] = {}
    runtime: Name
    format: Name
    threads: Annotated[int, Field(ge=1, le=4096)] = 1
    seconds: Annotated[float, Field(gt=0)] = 3.0
    points: tuple[Planned, ...] = Many
    read: dict[str, dict[str, Any]] = {}


class CurvePoint(_Plain):
    """One model of the curve.

    - `name`: what was asked for (`macs=0.5`), or the untouched model. `series`: the stage at which it was measured.
    - `accuracy`: a fraction, of detectors mAP 50–95. `latency_ms`: the median, measured with all points in turn.
    - `latency_ratio`: its latency as a share of the dense model's, from runs in turn.
    - `folder`: the run, in the sweep's folder.
    """

    name: Name
    series: Series
    accuracy: Number
    macs: Count
    params: Count | None = None
    latency_ms: Number | None = None
    latency_ratio: Number | None = None
    folder: Folder


class Died(_Plain):
    """A point that could not be made, and why."""

    name: Name
    reason: Text


class PointKey(_Plain):
    """Names one point of the curve, and its stage."""

    name: Name
    series: Series


class SweepSummary(_Plain):
    """The points of a sweep, by cost the fronts and the knee.

    - `quality`: what `accuracy` is called.
    - `fronts`: cost (`macs`, `latency_ms`) → "cut", "trained" or "untouched" → the points that none of the same kind
      beats; the dense model counts among each kind.
    - `knees`: cost → the knee of the pruned points' front, trained where they are; None where it does not bend.
    - `latency`: on what it was measured (`runtime`, `threads`, `processor`); empty where it was not.
    """

    kind: Literal["pareto"] = "pareto"
    title: Text
    quality: Text
    points: tuple[CurvePoint, ...] = Many
    fronts: dict[str, dict[str, tuple[PointKey, ...]]] = {}
    knees: dict[str, PointKey | None] = {}
    knee_rule: Text = ""
    failed: tuple[Died, ...] = Many
    latency: dict[str, Any] = {}
    facts: dict[str, Text] = {}
    notes: tuple[Text, ...] = Many
    command: Text
    versions: dict[str, Text] = {}
    seconds: Number = 0

    def point(self, place: PointKey) -> CurvePoint:
        """The point of that name and stage."""
        return next(p for p in self.points if (p.name, p.series) == (place.name, place.series))


def is_sweep(folder: str | Path) -> bool:
    """Whether a folder is that of a sweep."""
    return (Path(folder) / SWEEP).is_file()


def read_asked(folder: Path) -> Asked:
    """What is asked of the sweep in a folder.

    **Raises:** `PodarError` where it is missing or damaged.
    """
    path = folder / SWEEP
    return _read(Asked, path, f"remove {path} and start the sweep again")


def read_summary(folder: str | Path) -> SweepSummary:
    """The summary of a sweep, whole or with points that died.

    **Raises:** `PodarError` where there is none yet, or it is damaged.
    """
    path = Path(folder) / SUMMARY
    return _read(SweepSummary, path, f"podar resume {folder} writes it again")


def _read(kind: type[Checked], path: Path, cure: str) -> Checked:
    try:
        return validated(kind, read_json(path))
    except FileNotFoundError as error:
        raise PodarError(f"there is no {path}: {cure}.") from error
    except Unreadable as error:
        raise PodarError(f"{path} is damaged ({error}): {cure}.") from error
