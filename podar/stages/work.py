"""What each stage of a run does: one function a stage, from a Job to what it adds to the summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors.torch import load_file, save_file

from podar.errors import UsageError, nearest
from podar.files import atomic_path
from podar.libraries import workshop_of
from podar.model.drift import moved
from podar.pruning.options import Options
from podar.pruning.target import parse_target
from podar.stages import sparse as sparse_stages
from podar.stages.recipes import Export, Finetune, Measure, Prune, Recipe, Sparsify, Ticket
from podar.workshops import Source, Training, Workshop

if TYPE_CHECKING:
    from torch import nn

    from podar.graph import Graph
    from podar.pruning.pipeline import Result

Progress = Callable[[str, int, int, dict[str, float]], None]

_BUSY = 0.3  # share of interrupted turns above which it is said
_VISIBLY = 0.05  # share of the target by which what was reached may differ before it is said
_DENSE = "dense.safetensors"


@dataclass
class Job:
    """A run in the making: its parts, the model as the stages so far left it, and what they found.

    - `files`: the folder of finished files, which become the run folder; `scratch`: a folder for checkpoints.
    - `found`: the summary so far.
    - `step`: the name of the step under way; `checkpoint`: a file where its training may keep its place.
    - `settled`, `settle(what, value)`: what was decided by trying, written down before anything was made with it, so
      that a run that goes on goes on with the same.
    """

    recipe: Recipe
    source: Source
    model: nn.Module
    files: Path
    scratch: Path
    found: dict[str, Any]
    progress: Progress
    settled: dict[str, Any] = field(default_factory=dict)
    settle: Callable[[str, Any], None] = lambda what, value: None
    step: str = ""
    checkpoint: Path = Path("step.checkpoint")
    _dense: list[nn.Module] = field(default_factory=list)

    @property
    def workshop(self) -> Workshop:
        """Who trains, evaluates, prunes, exports and saves the model."""
        return self.source.workshop

    @property
    def dense(self) -> nn.Module:
        """The model before the run."""
        if not self._dense:
            self._dense.append(self.source.model)
            if (kept := self.scratch / _DENSE).is_file():
                self._dense[0] = self.source.build()
                self._dense[0].load_state_dict(load_file(kept))
        return self._dense[0]

    def noted(self, *notes: str) -> list[str]:
        """What earlier stages had to say, and then this, in whole sentences."""
        return [*self.found.get("notes", []), *map(sentence, notes)]

    def keep_dense(self, model: nn.Module) -> None:
        """Take another model for the dense one: a ticket search trains its own. It outlives a broken-off run."""
        with atomic_path(self.scratch / _DENSE) as temporary:
            save_file(dict(model.state_dict()), str(temporary))
        self._dense[:] = [model.eval()]


@dataclass(frozen=True)
class Step:
    """A stage as a run carries it out. `name` is what the user sees; `changes_model`: the model is saved after it;
    `goes_on`: broken off, it goes on from files that it left among the finished ones."""

    name: str
    do: Callable[[Job], dict[str, Any]]
    changes_model: bool = False
    goes_on: bool = False


def check(recipe: Recipe) -> None:
    """Refuse names and targets that make no sense, before anything is loaded.

    **Raises:** `UsageError`.
    """
    from podar.criteria import CRITERIA
    from podar.pruning.options import RECONSTRUCTION, SCOPES
    from podar.pruning.target import parse_target
    from podar.recover.precision import check_precision

    for stage in recipe.stages:
        if isinstance(stage, Prune):
            if stage.target is not None:
                parse_target(stage.target)
            _known("scope", stage.scope, SCOPES)
            if stage.importance is not None:
                _known("importance", stage.importance, (*CRITERIA, RECONSTRUCTION))
            for pattern, kept in stage.ratios.items():
                if not 0 < kept <= 1:
                    raise UsageError(f"ratio {pattern}={kept:g}: give the fraction to keep, above 0 and at most 1.")
        elif isinstance(stage, Sparsify):
            sparse_stages.check_sparsify(stage)
            _known("importance", stage.importance, CRITERIA)
        elif isinstance(stage, Ticket):
            _known("importance", stage.importance, CRITERIA)
        elif isinstance(stage, Export):
            for name in stage.formats:
                check_format(name, recipe.model)
        elif isinstance(stage, Finetune):
            check_precision(stage.precision)
            workshop_of(recipe.model).check_training(
                recipe.data, precision=stage.precision, distill=stage.distill, settings=stage.settings
            )


def check_format(name: str, model: str = "") -> None:
    """Refuse a name that no export format bears, with the nearest that one does; `model`: its library has more.

    **Raises:** `UsageError`.
    """
    formats = workshop_of(model).formats()
    _known("export format", name, formats)
    if formats[name]:
        raise UsageError(f"{name} cannot be written here: {formats[name]}.")


def steps(recipe: Recipe) -> list[Step]:
    """The steps of a recipe in order: its stages, and what always stands before and after them."""
    with_data = recipe.data is not None
    found = [Step("evaluate dense", evaluate_dense)]
    for stage in recipe.stages:
        if isinstance(stage, Prune):
            found.append(Step("prune", _bound(prune, stage), changes_model=True))
            if with_data:
                found.append(Step("recalibrate", recalibrate, changes_model=True))
        elif isinstance(stage, Sparsify):
            found.append(Step("sparsify", _bound(sparsify, stage), changes_model=stage.schedule is None))
            if with_data and stage.schedule is None:
                found.append(Step("recalibrate", recalibrate, changes_model=True))
        elif isinstance(stage, Ticket):
            found.append(Step("ticket", _bound(sparse_stages.ticket, stage), changes_model=True))
        elif isinstance(stage, Finetune):
            found.append(Step("fine-tune", _bound(fine_tune, stage), changes_model=True, goes_on=True))
    found.append(Step("evaluate", evaluate))
    if sparse_stages.leaves_zeros(recipe):
        found.append(Step("count zeros", sparse_stages.count))
    for stage in recipe.stages:
        if isinstance(stage, Export):
            found.append(Step("export", _bound(export, stage)))
        elif isinstance(stage, Measure):
            found.append(Step("measure", _bound(measure, stage)))
    return _numbered(found)


def evaluate_dense(job: Job) -> dict[str, Any]:
    """Costs, accuracy and frozen axes of the model as it came."""
    graph = job.workshop.trace(job.model, job.source.inputs())
    before = {**_costs(graph), **job.workshop.figures(job.model, job.source.inputs()), **_quality(job)}
    return {
        "before": before,
        "frozen": _frozen(graph),
        "points": _point("dense", "dense", before),
    }


def _frozen(graph: Graph) -> list[dict[str, Any]]:
    return [{"name": name, "dim": dim, "reason": reason} for name, dim, reason in graph.frozen]


def prune(job: Job, options: Prune) -> dict[str, Any]:
    """Cut the model to the target."""
    data, loss = job.workshop.samples(job.model, job.recipe.seed)
    importance = options.importance or job.workshop.importance
    asked = Options(
        importance=importance,
        scope=options.scope,
        ratios=options.ratios or None,
        protect=options.protect,
        only=options.only,
        multiple_of=options.multiple_of,
        data=data,
        loss=loss,
        outputs=options.outputs or None,
        depth=options.depth,
    )
    result = job.workshop.prune(job.model, job.source.inputs(), options.target, asked)
    share = result.graph.share(result.graph.removed_units(result.plan))
    first = {layer["name"]: layer["before"] for layer in job.found.get("layers", ())}
    layers = [
        {
            "name": group.name,
            "kind": group.kind,
            "before": first.get(group.name, group.size),
            "after": round(group.size * float(share[list(group.families)].mean())),
        }
        for group in result.graph.groups
    ]
    found: dict[str, Any] = {
        "layers": layers,
        "target": str(options),
        "importance": importance,
        "multiple_of": options.multiple_of,
        "blocks": list(result.blocks),
    }
    if options.outputs:  # the others held no widths
        found["frozen"] = _frozen(result.graph)
    notes = [f"whole residual blocks went: {', '.join(result.blocks)}"] if result.blocks else []
    notes += [] if options.target is None else _off_target(options.target, result)
    if notes:
        found["notes"] = job.noted(*notes)
    return found


def _off_target(text: str, result: Result) -> list[str]:
    """What is to be said where the nearest that widths allow is visibly another number than was asked for."""
    target = parse_target(text)
    if target.kind == "channels":
        return []
    kind = "memory_bytes" if target.kind == "memory" else target.kind
    dense, reached = getattr(result.before, kind), getattr(result.after, kind)
    if abs(reached / (target.value if target.absolute else target.value * dense) - 1) <= _VISIBLY:
        return []
    return [
        f"target {target}: the nearest that this model's widths allow is {reached / dense:.3f} of dense ({reached:,})"
    ]


def sparsify(job: Job, options: Sparsify) -> dict[str, Any]:
    """Make weights zero."""
    return sparse_stages.sparsify(job, options, *job.workshop.samples(job.model, job.recipe.seed))


def recalibrate(job: Job) -> dict[str, Any]:
    """Let batch norms see their new inputs, and see what the cut alone costs."""
    job.workshop.recalibrate(job.model)
    state = {**_costs(job.workshop.trace(job.model, job.source.inputs())), **_quality(job)}
    return {"points": [*job.found["points"], *_point("cut", "cut", state)]}


def _was_cut(job: Job) -> bool:
    return bool(job.found.get("layers") or job.found.get("sparsity"))


def _untuned(job: Job) -> dict[str, Any]:
    """What is to be said of a cut after which nothing was trained."""
    share = moved(job.dense, job.model, job.source.inputs())
    how_far = "" if share is None else f": on the example inputs the outputs moved by {100 * share:.3g} % of their size"
    how = "add --data" if job.recipe.data is None else "add --epochs"
    note = f"nothing was fine-tuned after the cut{how_far}; {how} to win accuracy back"
    return {"outputs_moved": share, "notes": job.noted(note)}


def fine_tune(job: Job, options: Finetune) -> dict[str, Any]:
    """Train the model; where `distill` is on and it was cut, the unpruned one is its teacher."""
    was_cut = _was_cut(job)
    made_sparse = "sparsity" in job.found  # by a stage of this run; else the model may have come so
    came_sparse = 0.0 if made_sparse else sparse_stages.share_of_zeros(job.model)
    sparse = made_sparse or came_sparse >= sparse_stages.SPARSE
    keeper = sparse_stages.keeper(job, *job.workshop.samples(job.model, job.recipe.seed)) if sparse else None
    settled = f"{job.step}: precision"
    training = Training(
        checkpoint=job.checkpoint,
        files=job.files,
        epochs=options.epochs,
        lr=options.lr,
        batch_size=options.batch_size,
        seconds=options.seconds,
        label_smoothing=options.label_smoothing,
        teacher=job.dense if options.distill and was_cut else None,
        precision=job.settled.get(settled) or options.precision or ("fp32" if job.recipe.deterministic else None),
        chosen=lambda precision: job.settle(settled, precision),
        settings=options.settings,
        seed=job.recipe.seed,
        progress=job.progress,
        keeper=keeper,
    )
    history = job.workshop.train(job.model, training)
    sparse_stages.complete(job)
    earlier = job.found.get("history", [])
    offset = max((epoch["epoch"] for epoch in earlier), default=0)
    fragment: dict[str, Any] = {
        "history": [*earlier, *({**epoch, "epoch": epoch["epoch"] + offset} for epoch in history.epochs)],
        "precision": history.precision,
    }
    notes = []
    if sparse and not made_sparse:
        notes.append(f"{100 * came_sparse:.1f} % of the weights were zero already: fine-tuning left them so")
    if history.stopped:
        notes.append(f"fine-tuning stopped early: {history.stopped}")
    if notes:
        fragment["notes"] = job.noted(*notes)
    return fragment


def evaluate(job: Job) -> dict[str, Any]:
    """Costs and accuracy of the model as the stages left it, and pictures with both models' answers."""
    graph = job.workshop.trace(job.model, job.source.inputs())
    after = {**_costs(graph), **job.workshop.figures(job.model, job.source.inputs()), **_quality(job)}
    tuned = "history" in job.found or "tickets" in job.found
    points = [
        *job.found["points"],
        *_point("ticket" if "tickets" in job.found else "fine-tuned" if tuned else "pruned", "final", after),
    ]
    if not tuned:  # the last cut is the end of the way
        points = [point for point in points if point["stage"] != "cut"]
    found: dict[str, Any] = {"after": after, "points": points}
    found |= job.workshop.pictures(job.dense, job.model, job.files)
    if not tuned and _was_cut(job):
        found |= _untuned(job)
    return found


def export(job: Job, options: Export) -> dict[str, Any]:
    """Write the pruned model in every format, and the dense one beside it for comparison."""
    inputs, write = job.source.inputs(), job.workshop.export
    files: dict[str, Any] = {}
    for at, name in enumerate(options.formats):
        job.progress("export", at, len(options.formats), {})
        pruned = write(job.model, inputs, folder=job.files, stem="model", format=name)
        dense = write(job.dense, inputs, folder=job.files, stem="dense", format=name)
        files[name] = {
            "file": str(pruned.path.relative_to(job.files)),
            "dense_file": str(dense.path.relative_to(job.files)),
            "parity": pruned.parity,
            "bytes": pruned.bytes,
            "dense_bytes": dense.bytes,
            "runtime": pruned.runtime,
        }
    return {"exports": files}


def measure(job: Job, options: Measure) -> dict[str, Any]:
    """Latency, memory and energy of dense and pruned in turn, in the runtime that serves the file."""
    from podar.measuring import compare, latency_ratio

    files = next(iter(job.found.get("exports", {}).values()), None)
    before, after = (job.files / files["dense_file"], job.files / files["file"]) if files else (job.dense, job.model)
    both = compare(
        {"before": before, "after": after}, job.source.inputs(), threads=options.threads, seconds=options.seconds
    )
    kept = ("bytes", "latency_ms", "memory_bytes", "memory_baseline_bytes", "energy_joules")
    halves = {half: {k: v for k, v in m.to_json().items() if k in kept} for half, m in both.items()}
    missing = {**both["before"].missing, **both["after"].missing}
    notes = [
        f"{name} was not measured: {missing[key]}"
        for key, name in (("memory_bytes", "Memory"), ("energy_joules", "Energy"))
        if key in missing
    ]
    if max(half.interrupted for half in both.values()) > _BUSY:
        notes.append(
            "Other programs shared the processor while latency was measured: the milliseconds hold their time, too; "
            "the change does not"
        )
    median = {"dense": both["before"].latency_ms["p50"], "final": both["after"].latency_ms["p50"]}
    median["cut"] = median["final"]  # the same layers with other weights
    return {
        **halves,
        "latency_ratio": latency_ratio(both["before"], both["after"]),
        "processor": both["after"].processor.to_json(),
        "points": [{**point, "latency_ms": median.get(point["stage"])} for point in job.found["points"]],
        "notes": job.noted(*notes),
    }


def _costs(graph: Graph) -> dict[str, int]:
    """Parameters and MACs; `bytes` and `memory_bytes` are the deployable file's and come from measuring it."""
    cost = graph.cost()
    return {"params": cost.params, "macs": cost.macs, "bytes": cost.bytes, "activation_bytes": cost.memory_bytes}


def _quality(job: Job) -> dict[str, float]:
    return job.workshop.evaluate(job.model) if job.recipe.data is not None else {}


def _point(name: str, stage: str, state: dict[str, Any]) -> list[dict[str, Any]]:
    quality = state.get("accuracy", state.get("map50_95"))
    if quality is None:
        return []
    return [{"name": name, "stage": stage, "accuracy": quality, "macs": state["macs"]}]


def _bound(function: Callable[..., dict[str, Any]], options: Any) -> Callable[[Job], dict[str, Any]]:
    return lambda job: function(job, options)


def _numbered(found: list[Step]) -> list[Step]:
    """Steps that repeat get a number, since a run remembers its steps by name."""
    seen: dict[str, int] = {}
    numbered = []
    for step in found:
        seen[step.name] = seen.get(step.name, 0) + 1
        again = f" {seen[step.name]}" if seen[step.name] > 1 else ""
        numbered.append(replace(step, name=step.name + again))
    return numbered


def _known(what: str, name: str, choices: Any) -> None:
    if name not in choices:
        near = nearest(name, choices)
        raise UsageError(
            f"there is no {what} {name!r}; " + (f"did you mean {near}?" if near else f"known: {', '.join(choices)}.")
        )


def sentence(text: str) -> str:
    """A remark as a sentence of its own."""
    text = text.strip()
    if text.partition(" ")[0].replace("-", "").isalpha():  # a name such as timm:resnet18 keeps its letters
        text = text[:1].upper() + text[1:]
    return text + ("" if text.endswith((".", "!", "?")) else ".")
