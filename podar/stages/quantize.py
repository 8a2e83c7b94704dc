"""quantize: write the model in 8 bits, in the encoding that is fastest here among those that keep the budget."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from podar.reports.sections import Section, fill_template
from podar.stages import Finding, Flag, Job, RecipeLike, StageOptions, stage

if TYPE_CHECKING:
    from podar.quantization import Quantized
    from podar.reports.record import RunRecord

_DENSE = "dense fp32"
_QUALITY = ("map50_95", "accuracy")  # the one figure of a library's own evaluation


def _runtimes() -> Iterable[str]:
    from podar.quantization import BACKENDS

    return BACKENDS


class Quantize(StageOptions):
    """The arguments of `podar.quantize`."""

    runtime: Annotated[
        str,
        Flag(
            "Write the model in 8 bits, in the encoding that is fastest in this runtime.",
            metavar="RUNTIME",
            choices=_runtimes,
            rank=4,
            asks="--quantize",
        ),
    ] = "onnxruntime"
    budget: Annotated[
        str,
        Flag("What 8 bits must keep: accuracy>=0.99, agreement>=0.99 or error<=0.1.", metavar="KIND>=SHARE", rank=4),
    ] = "accuracy>=0.99"

    def check(self, recipe: RecipeLike) -> None:
        from podar.quantization.budget import parse_budget
        from podar.quantization.register import known

        parse_budget(self.budget)
        known(self.runtime).imported()

    def __str__(self) -> str:
        return f"{self.budget} in {self.runtime}"


def _table(record: RunRecord) -> str:
    """Every encoding with its size, quality and latency."""
    return fill_template(Path(__file__).with_name("quantize.html.jinja"), found=record.own.get("quantize"))


@stage(
    "quantize",
    options=Quantize,
    after=("prune", "finetune"),
    so_that="what is quantised is what the run leaves",
    needs_data=True,
    fact="quantize",
    command="Write a model in 8 bits: every encoding is built, judged and timed, and the fastest kept.",
    sections=(Section(55, _table),),
)
def quantize(job: Job, options: Quantize) -> Finding:
    """Quantise the model as the stages left it; the dense float model is timed in the same turns."""
    import podar
    from podar.quantization.register import known

    backend, inputs = known(options.runtime), job.source.inputs()
    data = job.source.data
    if data is None:  # the library reads its own data
        data = _of_the_size(job.workshop.samples(job.model, job.recipe.seed)[0] or (), inputs)
    threads = next((n for found in job.recipe.stages if (n := getattr(found, "threads", None))), 1)
    with tempfile.TemporaryDirectory(dir=job.scratch, suffix=".part") as folder:

        def written(model: Any, stem: str) -> Path:
            where = {"folder": Path(folder) / stem, "stem": stem, "format": backend.format}
            return job.workshop.export(model, inputs, **where).path

        def evaluate(file: Path) -> float:
            quality = job.workshop.evaluate_file(job.model, file)
            return next((quality[key] for key in _QUALITY if key in quality), 0.0)

        found = podar.quantize(
            written(job.model, "float"),
            data,
            options.runtime,
            options.budget,
            job.files / f"model.int8{backend.suffix}",
            threads=threads,
            beside={} if job.untouched else {_DENSE: written(job.dense, "dense")},
            evaluate=evaluate if job.source.data is None else None,
            progress=job.progress,
        )
    return _finding(job, found)


def _of_the_size(batches: Iterable[tuple[Any, Any]], inputs: Any) -> Iterator[Any]:
    """Images of the size that the file takes: a library's own loader may put a border around them."""
    import torch

    side = inputs.shape[2:] if isinstance(inputs, torch.Tensor) and inputs.dim() == 4 else None
    for images, _ in batches:
        if side is not None and images.shape[2:] != side:
            border = [(have - want) // 2 for have, want in zip(images.shape[2:], side)]
            if min(border) >= 0:
                images = images[:, :, border[0] : border[0] + side[0], border[1] : border[1] + side[1]]
            else:
                images = torch.nn.functional.interpolate(images, tuple(side), mode="bilinear")
        yield images


def _finding(job: Job, found: Quantized) -> Finding:
    """What the summary holds of it; where nothing else was measured, the halves are those of the files."""
    floating, chosen = found.table[0], found.row
    facts: dict[str, Any] = {**found.to_json(), "path": found.path.name}
    facts |= {"accuracy": chosen.accuracy, "latency_ms": chosen.latency_ms, "ratio": chosen.ratio}
    verdict = found.verdict
    for name, latency in (found.beside or {}).items():
        verdict += f"; what the run leaves is {latency / (chosen.latency_ms or latency):.2f} times as fast as {name}"
    if not (job.untouched and job.found.after.latency_ms is None):
        return Finding(notes=(verdict, *found.notes), facts={"quantize": facts})
    told = {"runtime": found.runtime, "threads": found.threads}
    before, after = ({"bytes": row.bytes, "latency_ms": {"p50": row.p50_ms, **told}} for row in (floating, chosen))
    return Finding(
        before=before,
        after={**after, **job.workshop.evaluate_file(job.model, found.path)},
        notes=(found.verdict, *found.notes),
        facts={"quantize": facts, "latency_ratio": 1 / (chosen.ratio or 1)},
    )
