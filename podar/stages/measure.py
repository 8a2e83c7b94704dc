"""measure: latency, memory and energy of the dense and the pruned model, in turn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from pydantic import Field

from podar.stages import Finding, Flag, Job, StageOptions, stage
from podar.stages._figures import points

if TYPE_CHECKING:
    from podar.measuring.figures import Measured

_BUSY = 0.3  # share of interrupted turns above which it is said
_KEPT = ("bytes", "latency_ms", "memory_bytes", "memory_baseline_bytes", "energy_joules")


class Measure(StageOptions):
    """How long and with how many threads: the first exported format, or torch where nothing was exported."""

    seconds: float = Field(default=3.0, gt=0)
    threads: Annotated[int, Flag("Threads of the measured runtime.", rank=6), Field(ge=1, le=4096)] = 1


@stage("measure", options=Measure, after=("export",), so_that="the exported file is measured")
def measure(job: Job, options: Measure) -> Finding:
    """Measure both models in the runtime that serves the file."""
    from podar.measuring import compare, latency_ratio

    files = next(iter(job.found.exports.values()), None)
    before, after = (job.files / files.dense_file, job.files / files.file) if files else (job.dense, job.model)
    both = compare(
        {"before": before, "after": after},
        job.source.inputs(),
        threads=options.threads,
        seconds=options.seconds,
        counts=False,  # the summary has them: other stages counted them
    )
    halves = {half: {k: v for k, v in m.to_json().items() if k in _KEPT} for half, m in both.items()}
    median = {"dense": both["before"].latency_ms["p50"], "final": both["after"].latency_ms["p50"]}
    median["cut"] = median["final"]  # the same layers with other weights
    return Finding(
        before=halves["before"],
        after=halves["after"],
        notes=_notes(both["before"], both["after"]),
        facts={
            "latency_ratio": latency_ratio(both["before"], both["after"]),
            "processor": both["after"].processor.to_json(),
            "points": [{**point, "latency_ms": median.get(point["stage"])} for point in points(job)],
        },
    )


def _notes(before: Measured, after: Measured) -> tuple[str, ...]:
    """What was not measured, and what disturbed the measuring."""
    missing = {**before.missing, **after.missing}
    notes = [
        f"{name} was not measured: {missing[key]}"
        for key, name in (("memory_bytes", "Memory"), ("energy_joules", "Energy"))
        if key in missing
    ]
    if max(before.interrupted, after.interrupted) > _BUSY:
        notes.append(
            "Other programs shared the processor while latency was measured: the milliseconds hold their time, too; "
            "the change does not"
        )
    return tuple(notes)
