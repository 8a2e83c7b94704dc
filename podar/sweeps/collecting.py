"""From the folders of finished runs to a curve: what each found, all models measured in turn, fronts and knees."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from podar.errors import PodarError
from podar.reports.summary import Summary, read
from podar.sweeps.fronts import KNEE_RULE, front, knee
from podar.sweeps.summary import COSTS, Asked, CurvePoint, Died, Planned, PointKey, Series, SweepSummary
from podar.trust import programs

_KINDS: dict[str, tuple[Series, ...]] = {
    "cut": ("dense", "cut"),
    "trained": ("dense", "trained"),
    "untouched": ("dense", "family", "size"),
}


def collect(
    out: Path,
    asked: Asked,
    died: Sequence[Died],
    *,
    ours: Sequence[str],
    notes: Sequence[str],
    versions: Mapping[str, str],
) -> SweepSummary:
    """The summary of a sweep from its finished runs.

    **Arguments:**

    - `died`: the points that could not be made.
    - `ours`: points whose files may be run although they are programs (`.pt2`).
    """
    missing = {point.name for point in died}
    runs = {point.name: read(out / point.folder) for point in asked.points if point.name not in missing}
    found = [p for point in asked.points if point.name in runs for p in points_of(point, runs[point.name])]
    files = {
        point.name: out / point.folder / runs[point.name].exports[asked.format].file
        for point in asked.points
        if point.name in runs and asked.format in runs[point.name].exports
    }
    latency, ratios, about, more = _measured(files, asked, ours)
    found = [
        p.model_copy(update={"latency_ms": latency.get(p.name), "latency_ratio": ratios.get(p.name)}) for p in found
    ]
    said = [note for point in asked.points if point.kind != "target" for note in _own_notes(point, runs)]
    detector = any(run.after.plain().get("map50_95") is not None for run in runs.values())
    return SweepSummary(
        title=asked.title,
        quality="mAP 50–95" if detector else "accuracy",
        points=tuple(found),
        fronts=fronts_of(found),
        knees={cost: knee_of(found, cost) for cost in COSTS},
        knee_rule=KNEE_RULE,
        failed=tuple(died),
        latency=about,
        facts=asked.facts,
        notes=(*notes, *more, *dict.fromkeys(said)),
        command=asked.command,
        versions=dict(versions),
    )


def points_of(point: Planned, run: Summary) -> list[CurvePoint]:
    """What one run adds to the curve: an untouched model, or a cut one with and without training."""
    params = run.after.params or run.before.params
    if point.kind != "target":
        half = run.after.plain()
        quality = half.get("accuracy", half.get("map50_95"))
        macs = run.after.macs or run.before.macs
        found: list[tuple[Series, float | None, int | None]] = [(point.kind, quality, macs)]
    else:
        tuned = bool(run.history)
        stages: dict[str, Series] = {"cut": "cut", "final": "trained" if tuned else "cut"}
        found = [(stages[p.stage], p.accuracy, p.macs) for p in run.points if p.stage in stages]
    return [
        CurvePoint(name=point.name, series=series, accuracy=quality, macs=macs, params=params, folder=point.folder)
        for series, quality, macs in found
        if quality is not None and macs is not None
    ]


def fronts_of(points: Sequence[CurvePoint]) -> dict[str, dict[str, tuple[PointKey, ...]]]:
    """By cost and kind the points that none of that kind beats."""
    found: dict[str, dict[str, tuple[PointKey, ...]]] = {}
    for cost in COSTS:
        for kind, series in _KINDS.items():
            own = [p for p in points if p.series in series and getattr(p, cost) is not None]
            if any(p.series != "dense" for p in own):
                places = [(float(getattr(p, cost)), float(p.accuracy)) for p in own]
                found.setdefault(cost, {})[kind] = tuple(_place(own[at]) for at in front(places))
    return found


def knee_of(points: Sequence[CurvePoint], cost: str) -> PointKey | None:
    """The knee of the pruned points and the dense one: of the trained ones where there are any."""
    series: Series = "trained" if any(p.series == "trained" for p in points) else "cut"
    own = [p for p in points if p.series in ("dense", series) and getattr(p, cost) is not None]
    at = knee([(float(getattr(p, cost)), float(p.accuracy)) for p in own])
    return None if at is None else _place(own[at])


def _place(point: CurvePoint) -> PointKey:
    return PointKey(name=point.name, series=point.series)


def _own_notes(point: Planned, runs: Mapping[str, Summary]) -> list[str]:
    """Notes that the reader needs on an untouched model, such as that its weights are random."""
    run = runs.get(point.name)
    return [] if run is None else [f"{point.name}: {note}" for note in run.notes]


def _measured(
    files: Mapping[str, Path], asked: Asked, ours: Sequence[str]
) -> tuple[dict[str, float], dict[str, float], dict[str, object], list[str]]:
    """Median milliseconds by point and as a share of the dense model's, on what, and why some were not measured."""
    import torch

    from podar.measuring import latency_ratio, side_by_side
    from podar.runtimes import open_file
    from podar.runtimes.file_inputs import random_inputs

    inputs, reasons = {}, {}
    for name, file in files.items():
        try:
            if name in ours:
                programs.remember(file)
            ports = open_file(file, runtime=asked.runtime).inputs
            inputs[name] = {key: torch.from_numpy(array) for key, array in random_inputs(ports).items()}
        except PodarError as error:
            reasons[name] = str(error)
    names = list(inputs)
    measured = {}
    if names:
        try:
            lines = side_by_side(
                [files[name] for name in names],
                inputs=list(inputs.values()),
                runtimes=[asked.runtime],
                threads=asked.threads,
                seconds=asked.seconds,
                memory=False,
            )
        except PodarError as error:
            lines, reasons = [], dict.fromkeys(names, str(error))
        measured = {names[line.place]: line.measured for line in lines if line.measured is not None}
        reasons |= {names[line.place]: line.reason for line in lines if line.reason is not None}
    dense = measured.get("dense")
    notes = [f"latency of {name} was not measured: {reason}" for name, reason in reasons.items()]
    if not measured:
        return {}, {}, {}, notes
    first = next(iter(measured.values()))
    about = {
        "runtime": first.latency_ms["runtime"],
        "threads": asked.threads,
        "processor": first.processor.to_json(),
    }
    ratios = {} if dense is None else {name: latency_ratio(dense, own) for name, own in measured.items()}
    return {name: own.latency_ms["p50"] for name, own in measured.items()}, ratios, about, notes
