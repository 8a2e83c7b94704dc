"""Renders a RunRecord as one HTML file: styles and pictures inside, no script, every text escaped."""

from __future__ import annotations

import base64
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from podar.files import write_atomic
from podar.reports import charts, headline, numbers, sparse
from podar.reports.record import Frozen, Layer, RunRecord

_HERE = Path(__file__).parent
_SHOWN_LAYERS = 48  # more stand behind a click: a detector has two hundred groups


def write(record: RunRecord, path: str | os.PathLike[str]) -> None:
    """Write the report of a run to `path`, an HTML file that needs no other file and no network.

    **Raises:** `PodarError` where the file cannot be written.

    ```python
    podar.reports.write(RunRecord.from_folder("runs/demo"), "runs/demo/report.html")
    ```
    """
    write_atomic(path, render(record))


def render(record: RunRecord) -> str:
    """The report's HTML."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    detector = "map50_95" in record.after
    quality = "mAP 50–95" if detector else "accuracy"
    environment.filters.update(
        count=numbers.count,
        size=numbers.size,
        ms=numbers.milliseconds,
        duration=numbers.duration,
        percent=numbers.percent,
    )
    return environment.get_template("page.html.jinja").render(
        record=record,
        detector=detector,
        quality=quality if detector else "Accuracy",
        style=Markup((_HERE / "page.css").read_text(encoding="utf-8")),
        rows=headline.rows(record.before, record.after, record.latency_ratio),
        sentence=headline.sentence(record.before, record.after, record.latency_ratio),
        measured=_measured(record),
        macs_chart=None
        if _same_macs(record)
        else charts.against(record.points, "macs", "MACs of one input", numbers.count, quality),
        latency_chart=charts.against(record.points, "latency_ms", "median latency", numbers.milliseconds, quality),
        accuracy_chart=charts.over_epochs(
            record.history, "val_accuracy", f"validation {quality}", charts.short_percent
        ),
        loss_chart=charts.over_epochs(record.history, "loss", "training loss", lambda loss: f"{loss:.3g}"),
        layers=_bars(record.layers[:_SHOWN_LAYERS], widest=_widest(record.layers)),
        more_layers=_bars(record.layers[_SHOWN_LAYERS:], widest=_widest(record.layers)),
        untouched=sum(layer.before == layer.after for layer in record.layers),
        frozen=by_reason(record.frozen),
        pictures=[(picture, _data_uri(picture.png)) for picture in record.pictures],
        ticket_chart=sparse.ticket_chart(record.tickets),
        zeros=sparse.zero_bars(record.sparsity),
        weight_histogram=sparse.histogram(record.histogram),
        scenes=[(scene.caption, _data_uri(scene.png)) for scene in record.scenes],
    )


def _measured(record: RunRecord) -> str:
    """On what the latency was measured, the same for both halves."""
    latency = record.after.get("latency_ms") or {}
    if "runtime" not in latency:
        return ""
    threads = latency.get("threads", 1)
    return f"{latency['runtime']}, {threads} thread{'s' if threads != 1 else ''}, dense and pruned in turn"


def _same_macs(record: RunRecord) -> bool:
    """Zeros leave the MACs as they were: a chart against them would show one column of points."""
    return bool(record.sparsity) and len({point.macs for point in record.points}) < 2


def _widest(layers: Sequence[Layer]) -> int:
    return max((layer.before for layer in layers), default=1)


def _bars(layers: Sequence[Layer], widest: int) -> list[tuple[Layer, float, float]]:
    """Each layer with the lengths of its two bars in percent, on one scale for all."""
    scale = 100 / max(1, widest)
    return [(layer, scale * layer.before, scale * layer.after) for layer in layers]


def by_reason(frozen: Sequence[Frozen]) -> list[tuple[str, list[str]]]:
    """Frozen axes gathered under their reasons, the most frequent first. Reasons that differ only in quoted names or
    numbers stay apart: each names its own operator and module."""
    gathered: dict[str, list[str]] = defaultdict(list)
    for axis in frozen:
        gathered[re.sub(r"\s+", " ", axis.reason).strip()].append(f"{axis.name}, dimension {axis.dim}")
    return sorted(gathered.items(), key=lambda item: -len(item[1]))


def _data_uri(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
