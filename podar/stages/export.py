"""export: write deployable files of the dense and of the pruned model, each checked against its model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field

from podar.sources.naming import check_format
from podar.stages import Finding, Flag, Job, RecipeLike, StageOptions, stage


def _formats() -> Iterable[str]:
    from podar.formats import FORMATS

    return FORMATS


class Export(StageOptions):
    """The names of the formats; the first one is what `measure` measures."""

    formats: Annotated[
        tuple[str, ...],
        Flag("Write this format too; may be repeated.", name="--export", metavar="FORMAT", choices=_formats, rank=4),
        Field(min_length=1),
    ]

    def check(self, recipe: RecipeLike) -> None:
        for name in self.formats:
            check_format(name, recipe.model)

    @classmethod
    def from_flags(cls, given: dict[str, Any], data: str | None) -> dict[str, Any] | None:
        return given if given["formats"] else None


@stage("export", options=Export)
def export(job: Job, options: Export) -> Finding:
    """Write the pruned model in every format, and the dense one beside it for comparison."""
    inputs, write = job.source.inputs(), job.workshop.export
    files: dict[str, Any] = {}
    for at, name in enumerate(options.formats):
        job.progress("export", at, len(options.formats), {})
        pruned = write(job.model, inputs, folder=job.files, stem="model", format=name)
        dense = pruned if job.untouched else write(job.dense, inputs, folder=job.files, stem="dense", format=name)
        files[name] = {
            "file": str(pruned.path.relative_to(job.files)),
            "dense_file": str(dense.path.relative_to(job.files)),
            "parity": pruned.parity,
            "bytes": pruned.bytes,
            "dense_bytes": dense.bytes,
            "runtime": pruned.runtime,
        }
    return Finding(facts={"exports": files})
