"""recalibrate: batch norms see their new inputs, right behind a cut; and what the cut alone costs is measured."""

from __future__ import annotations

from podar.stages import Finding, Job, StageOptions, stage
from podar.stages._figures import point, points, quality


@stage("recalibrate", comes="behind", after=("prune", "sparsify"), changes_model=True, needs_data=True)
def recalibrate(job: Job, options: StageOptions) -> Finding:
    """Let batch norms see their new inputs, and see what the cut alone costs.

    After compensation they are right already: averaged anew they would cost some of what it gained.
    """
    solved = bool((job.found.own("compensation") or {}).get("solved"))
    if not solved:
        job.workshop.recalibrate(job.model)
    state = {"macs": job.found.after.macs or job.found.before.macs, **quality(job)}
    return Finding(facts={"points": [*points(job), *point("compensated" if solved else "cut", "cut", state)]})
