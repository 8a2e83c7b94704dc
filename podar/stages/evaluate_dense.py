"""evaluate dense: costs, quality and frozen axes of the model as it came; the first step of every run."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from podar.reports.sections import Section, fill_template
from podar.stages import Finding, Job, StageOptions, stage
from podar.stages._figures import costs, point, quality

if TYPE_CHECKING:
    from podar.reports.record import RunRecord
    from podar.reports.summary import Frozen


def _frozen(record: RunRecord) -> str:
    """Which axes could not be cut, and why."""
    template = Path(__file__).with_name("evaluate_dense.html.jinja")
    return fill_template(template, frozen=by_reason(record.frozen), count=len(record.frozen))


def by_reason(frozen: Sequence[Frozen]) -> list[tuple[str, list[str]]]:
    """Frozen axes gathered under their reasons, the most frequent first. Reasons that differ only in quoted names or
    numbers stay apart: each names its own operator and module."""
    gathered: dict[str, list[str]] = defaultdict(list)
    for axis in frozen:
        gathered[re.sub(r"\s+", " ", axis.reason).strip()].append(f"{axis.name}, dimension {axis.dim}")
    return sorted(gathered.items(), key=lambda item: -len(item[1]))


@stage("evaluate dense", comes="first", sections=(Section(80, _frozen),))
def evaluate_dense(job: Job, options: StageOptions) -> Finding:
    """Trace the model, and see what it costs and how good it is."""
    inputs = job.source.inputs()
    graph = job.workshop.trace(job.model, inputs)
    job.graph = graph
    before = {**costs(graph.cost()), **job.workshop.figures(job.model, inputs), **quality(job)}
    frozen = [{"name": name, "dim": dim, "reason": reason} for name, dim, reason in graph.frozen]
    return Finding(before=before, facts={"frozen": frozen, "points": point("dense", "dense", before)})
