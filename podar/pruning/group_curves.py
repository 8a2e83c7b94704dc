"""How much each group's units matter: the network's own error when this group alone is cut, to several fractions."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from podar.compensation import worth
from podar.compensation.inputs import first_batches, ready, running
from podar.compensation.one_cut import Readers
from podar.criteria.unit_sums import scored_units
from podar.errors import PodarError, UsageError
from podar.graph import Graph, trace
from podar.graph.slices import plan_for
from podar.model.batches import Batch, read, rows, run, size
from podar.model.outputs import main_output
from podar.model.tensors import named_tensors
from podar.plans.plan import Plan
from podar.plans.surgery import apply
from podar.pruning.moves import Moves
from podar.pruning.options import RECONSTRUCTION, Options

FRACTIONS = (0.75, 0.5, 0.25)
SAMPLES = 256
"""On so many samples outputs are compared where nothing else is asked for."""

MEMORY = 2 << 30

Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class GroupCut:
    """One group cut to a fraction of its units; everything else stays whole.

    **Attributes:**

    - `kept`: the fraction. `units`: how many that are. `macs`: what the whole model then costs, as a share of dense.
    - `plain`, `compensated`: how far the outputs move, as a share of the dense outputs' size: as cut, and after the
      group's readers were solved anew; inf where they are not finite. None where nothing could be solved.
    - `plain_accuracy`, `accuracy`: the same two as accuracy, where the data have labels.
    """

    kept: float
    units: int
    macs: float
    plain: float
    compensated: float | None = None
    plain_accuracy: float | None = None
    accuracy: float | None = None

    @property
    def error(self) -> float:
        """What this cut costs: the smaller of the two errors."""
        return self.plain if self.compensated is None else min(self.plain, self.compensated)


@dataclass(frozen=True)
class GroupCurve:
    """One group's cuts, from the most kept to the least.

    **Attributes:** `tied`: groups that go in step with it. `left`: why nothing was solved; None where it was.
    """

    name: str
    kind: str
    size: int
    tied: tuple[str, ...]
    cuts: tuple[GroupCut, ...]
    left: str | None = None


@dataclass(frozen=True)
class Sensitivity:
    """Every group's curve, in the order of the network; print it for a table.

    **Attributes:** `samples`: on how many the outputs were compared. `accuracy`: the dense model's, on the same.
    """

    groups: tuple[GroupCurve, ...]
    samples: int
    accuracy: float | None = None
    fractions: tuple[float, ...] = field(default=FRACTIONS)

    def to_json(self) -> dict[str, Any]:
        """Plain data; what is not finite is None."""
        return _plain(asdict(self))

    def __str__(self) -> str:
        """A row a group: the error at each fraction, compensated where that helps."""
        names = [f"{100 * f:g} %" for f in self.fractions]
        table = [["group", "units", *names]]
        for group in self.groups:
            own = {_nearest(cut.kept, self.fractions): cut for cut in group.cuts}
            cells = [f"{own[f].error:.4f}" if f in own else "–" for f in self.fractions]
            table.append([group.name, f"{group.size} {group.kind}", *cells])
        widths = [max(len(row[k]) for row in table) for k in range(len(table[0]))]
        lines = ["  ".join([f"{r[0]:<{widths[0]}}", *(f"{c:>{w}}" for c, w in zip(r[1:], widths[1:]))]) for r in table]
        return "\n".join([*lines, f"outputs moved, as a share of their size, on {self.samples} samples"])


def sensitivity(
    model: nn.Module,
    inputs: Any,
    *,
    test: Any = None,
    fractions: Sequence[float] = FRACTIONS,
    importance: str = RECONSTRUCTION,
    samples: int = SAMPLES,
    memory: int = MEMORY,
    graph: Graph | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Sensitivity:
    """See how far the outputs move when one group alone is cut, for each group and fraction; the model stays as it is.

    What all readers see is measured in one pass over the inputs, as far as `memory` goes; each cut is then solved
    without another one, and run on the samples as a model of its own.

    **Arguments:**

    - `inputs`: a tensor, batches or a data set, as docs/data.md says; the first 512 samples are read. Statistics and
      the choice of units come from them.
    - `test`: others, on which outputs are compared, (inputs, targets) for accuracy; None: `inputs` themselves.
    - `fractions`: how much is kept, each above 0 and below 1.
    - `importance`: by which criterion a group's units go.
    - `samples`: on how many the outputs are compared.
    - `memory`: bytes of second moments held at once.
    - `graph`: the trace of the model, where there is one already; None: it is traced on the first sample.

    **Returns:** Sensitivity: `.groups`, each with its `.cuts`; `print(...)` shows a table.

    **Raises:** `UsageError`: fractions, samples or memory that make no sense. `PodarError`: no inputs, inputs that do
    not fit, or nothing that can be cut.

    ```python
    found = podar.sensitivity(model, pictures)
    print(found)
    ```
    """
    wanted = _checked(fractions, samples, memory)
    inputs = list(inputs) if isinstance(inputs, Iterator) else inputs  # it is read more than once
    batches = first_batches(inputs, model)
    first = rows(batches[0], 0, 1, size(batches[0]))
    graph = trace(model, (lambda m: run(m, first)), outputs=None) if graph is None else graph
    if not graph.clusters:
        raise PodarError("nothing of this model can be cut: podar inspect MODEL shows why")
    by_error = importance == RECONSTRUCTION
    scores, _ = scored_units(graph, "magnitude" if by_error else importance, model, inputs)
    if by_error:
        scores = worth(graph, model, batches, scores, seed=seed, memory=memory).errors
    trial = _Trial(model, _tested(model, inputs if test is None else test, samples))
    readers = Readers(model, batches, memory=memory, seed=seed)
    curves = dict(_curves(graph, model, scores, wanted, trial, readers, progress))
    return Sensitivity(tuple(curves[k] for k in sorted(curves)), trial.count, trial.accuracy, wanted)


def _checked(fractions: Sequence[float], samples: int, memory: int) -> tuple[float, ...]:
    wrong = next((f for f in fractions if not isinstance(f, (int, float)) or not 0 < f < 1), None)
    if wrong is not None:
        raise UsageError(f"fraction {wrong!r}: give what is kept of a group, above 0 and below 1")
    if not fractions:
        raise UsageError("no fractions are given: say what is kept of each group, such as 0.75 and 0.5")
    if len(set(fractions)) < len(fractions):
        raise UsageError(f"fractions {', '.join(f'{f:g}' for f in fractions)} name one twice: once is enough")
    for name, value in (("samples", samples), ("memory", memory)):
        if type(value) is not int or value < 1:
            raise UsageError(f"{name} is {value!r}; give a whole number from 1 up")
    return tuple(sorted(map(float, fractions), reverse=True))


@dataclass(frozen=True)
class _Cut:
    """A plan for one group, and what it leaves."""

    plan: Plan
    kept: float
    steps: int
    macs: float


def _curves(
    graph: Graph,
    model: nn.Module,
    scores: NDArray[np.float64],
    fractions: Sequence[float],
    trial: _Trial,
    readers: Readers,
    progress: Progress | None,
) -> Iterator[tuple[int, GroupCurve]]:
    """Every cluster's curve, by the place of its first group."""
    moves, dense = Moves(graph, scores, Options(), 1), graph.cost().macs
    cuts = {k: _cuts(graph, moves, k, fractions, dense) for k in range(len(moves.clusters))}
    solvable = {k: readers.solvable(own[-1].plan) for k, own in cuts.items() if own}
    alone = [([k], {}) for k, (names, _) in solvable.items() if not names]
    done = 0
    for part, found in (*alone, *readers.passes({k: names for k, (names, _) in solvable.items() if names})):
        for k in part:
            names, left = solvable[k]
            made = []
            for cut in cuts[k]:
                smaller = apply(copy.deepcopy(model), cut.plan)
                error, accuracy = trial.run(smaller)
                solved: tuple[float | None, float | None] = (None, None)
                if names:
                    readers.repair(smaller, cut.plan, names, found)
                    solved = trial.run(smaller)
                made.append((cut, error, accuracy, *solved))
            done += 1
            if progress is not None:
                progress("groups", done, len(solvable), {})
            yield _curve(graph, moves, k, made, left or None)


def _cuts(graph: Graph, moves: Moves, cluster: int, fractions: Sequence[float], dense: int) -> list[_Cut]:
    """The cluster's cuts, each once: a group of two units has only one."""
    steps, least = int(moves.steps[cluster]), int(moves.least[cluster])
    counts = {min(steps - 1, max(least, round(f * steps))) for f in fractions}
    found = []
    for count in sorted((n for n in counts if least <= n < steps), reverse=True):
        kept = moves.steps.copy()
        kept[cluster] = count
        allocation = moves.allocation(kept)
        macs = graph.costs.cost(allocation.share).macs / dense if dense else 1.0
        found.append(_Cut(plan_for(graph, allocation.removed), count / steps, count, macs))
    return found


def _curve(graph: Graph, moves: Moves, cluster: int, made: Sequence[Any], left: str | None) -> tuple[int, GroupCurve]:
    families = set(moves.clusters[cluster].families)
    groups = [(place, group) for place, group in enumerate(graph.groups) if families & set(group.families)]
    place, first = groups[0]
    cuts = tuple(
        GroupCut(cut.kept, round(cut.kept * first.size), cut.macs, error, solved, accuracy, solved_accuracy)
        for cut, error, accuracy, solved, solved_accuracy in made
    )
    return place, GroupCurve(first.name, first.kind, first.size, tuple(g.name for _, g in groups[1:]), cuts, left)


class _Trial:
    """The dense model's outputs on some samples, with which those of cut ones are compared."""

    def __init__(self, model: nn.Module, batches: Sequence[Batch]) -> None:
        self.batches = batches
        self.count = sum(size(batch.inputs) for batch in batches)
        with _quiet(model):
            answers = [run(model, batch.inputs) for batch in batches]
        self.outputs = [
            {path: t for path, t in named_tensors(own) if t.is_floating_point() and bool(t.isfinite().all())}
            for own in answers
        ]
        self.size = math.fsum(float(t.double().square().sum()) for own in self.outputs for t in own.values())
        if not self.size:
            raise PodarError("the model's outputs on these samples are all zero, so no share of them can be told")
        self.accuracy = self._accuracy(answers)

    def run(self, model: nn.Module) -> tuple[float, float | None]:
        """How far the outputs move, and the accuracy."""
        with _quiet(model):
            answers = [run(model, batch.inputs) for batch in self.batches]
        moved = 0.0
        for dense, own in zip(self.outputs, answers):
            after = dict(named_tensors(own))
            moved += math.fsum(_distance(t, after.get(path)) for path, t in dense.items())
        error = math.sqrt(moved / self.size) if math.isfinite(moved) else math.inf
        return error, self._accuracy(answers)

    def _accuracy(self, answers: Sequence[Any]) -> float | None:
        """The share of right answers; None where the data do not say, or these are no classes."""
        right = 0
        for batch, own in zip(self.batches, answers):
            targets = batch.targets
            if not isinstance(targets, Tensor) or targets.dim() != 1 or targets.is_floating_point():
                return None
            try:
                logits = main_output(own)
            except PodarError:
                return None
            if logits.dim() != 2 or len(logits) != len(targets):
                return None
            right += int((logits.argmax(1).cpu() == targets.cpu()).sum())
        return right / self.count


def _distance(dense: Tensor, own: Tensor | None) -> float:
    if own is None or own.shape != dense.shape:
        return 0.0
    moved = float((own.double() - dense.double()).square().sum())
    return moved if math.isfinite(moved) else math.inf


@contextmanager
def _quiet(model: nn.Module) -> Iterator[None]:
    with ready(model), running(), torch.no_grad():
        yield


def _tested(model: nn.Module, data: Any, samples: int) -> list[Batch]:
    """The samples on which outputs are compared."""
    found: list[Batch] = []
    count = 0
    for batch in read(data, model, "sensitivity"):
        own = size(batch.inputs)
        take = min(own, samples - count)
        if take < own:
            targets = batch.targets[:take] if isinstance(batch.targets, Tensor) else None
            batch = Batch(rows(batch.inputs, 0, take, own), targets)
        found.append(batch)
        count += take
        if count >= samples:
            break
    return found


def _nearest(kept: float, fractions: Sequence[float]) -> float:
    return min(fractions, key=lambda f: abs(f - kept))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
