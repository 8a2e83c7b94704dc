"""`compensate`: after a cut every linear map is solved anew, so that the smaller model gives what the dense one gave.

Both models walk side by side over the same inputs, in the order of the network. Before each map of the pruned model its
weights are solved by least squares: its inputs as they now are, the dense map's outputs as the target. The last map of
a residual branch also takes over what the other branch lost, and what a ReLU cuts off does not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from podar.compensation.flow import After, follow
from podar.compensation.forms import Convolution
from podar.compensation.inputs import HELD, Read, first_batches, monotonous, ready, running
from podar.compensation.pair import Pair
from podar.compensation.readings import Key, Parameters, Reading
from podar.compensation.refining import refine as moved_together
from podar.compensation.report import Compensation, Consumer
from podar.compensation.solving import Cutoff, SolvedWeights, solve
from podar.compensation.statistics import checksum
from podar.compensation.walking import Walk
from podar.model.batches import run

ROWS_PER_COLUMN = 8
"""So many rows are drawn for each unknown of an output, where the inputs give as many. More change nothing."""

FEWEST_ROWS = 4096

SPARSE = 0.1
"""A weight with this share of zeros was sparsified: solving it would fill them."""

NOT_WHOLE = "no convolution or product reads it as a whole"
"""The reason for leaving a parameter that weights are computed from, or of which only a part is read."""

TABLE = "rows of it are looked up, too: an embedding is tied to it"
"""The reason for leaving a head that shares its weight with an embedding: a new one would change all layers' inputs."""

Run = Callable[[nn.Module], Any]


def compensate(pruned: nn.Module, dense: nn.Module, inputs: Any, *, refine: bool = True, seed: int = 0) -> Compensation:
    """Solve the linear maps of a pruned model anew, in place, from inputs without labels.

    Least squares over all inputs of a map, kernel positions included, towards the dense model's outputs, with an
    intercept where a bias or a batch norm can take it (reconstruction as in ZipLM, Kurtic et al. 2023, and OSSCAR, Meng
    et al. 2024, but on the pruned model's own inputs). Convolutions of any kind and products with a parameter are
    solved, wherever in the model they stand. A map whose outputs would not come nearer to the dense ones on samples
    that were held back stays as it is.

    **Arguments:**

    - `pruned`: a model that `podar.prune` or `podar.apply` cut; it carries its plan. Changed in place.
    - `dense`: the model as it was before. Left as it is.
    - `inputs`: a tensor (its first axis is the batch), batches, or a data set, as docs/data.md says; targets are not
      looked at. The first 512 samples are read, and some thousand more to move all maps together where there are as
      many: shuffle what is in the order of its classes.
    - `refine`: afterwards move all maps together, a hundred steps towards what the dense model computes on the way
      (docs/compensation.md).
    - `seed`: of the rows that are drawn. The order of the batches changes nothing.

    **Returns:** Compensation: per map the error before and after; `print(…)` shows a table.

    **Raises:** `PodarError`: no inputs, inputs that are not finite or do not fit, or two models that do not belong
    together.

    ```python
    dense = copy.deepcopy(model)
    podar.prune(model, pictures[:1], "macs=0.5")
    print(podar.compensate(model, dense, pictures))
    ```
    """
    read = first_batches(inputs, dense)
    batches = Read(sorted(read, key=checksum))  # their order is to change nothing
    useless = monotonous(batches)
    if useless is not None:
        return Compensation((), failed=useless)
    pair = Pair(pruned, dense)
    runs: list[Run] = [lambda model, batch=batch: run(model, batch) for batch in batches]
    with ready(pruned) as meant, ready(dense), running(), torch.no_grad():
        repair = _Repair(pair, runs, [seed + checksum(batch) for batch in batches], meant)
        found = repair.carried_out()
        if not refine:
            return found
        measured = [c.name for c in found.consumers if c.before is not None]
        refined = moved_together(pair, repair.flow, repair.dense_flow, batches, read.further, measured, seed)
        return replace(found, refined=refined)


@dataclass(frozen=True)
class _Sample:
    """Rows of one batch at one reading of a map.

    **Attributes:**

    - `rows`: (groups, rows, columns) inputs. wanted: (groups, rows, outputs) what the dense model gives there.
    - `zero`: where the ReLU behind it is zero, in the shape of `wanted`; None without one.
    - `held`: which rows are held back.
    - `number`: which reading of its parameter it is.
    """

    rows: Tensor
    wanted: Tensor
    zero: Tensor | None
    held: Tensor
    number: int


class _Repair:
    """One walk of both models through all batches."""

    def __init__(self, pair: Pair, runs: Sequence[Run], seeds: Sequence[int], meant: set[int]) -> None:
        self.pair, self.runs, self.seeds, self.meant = pair, runs, seeds, meant
        self.flow = follow(pair.pruned, runs[0], pair.of_pruned)
        self.dense_flow = follow(pair.dense, runs[0], pair.of_dense)
        self.calls: dict[str, int] = {}
        for name, _ in self.flow.order:
            self.calls[name] = self.calls.get(name, 0) + 1
        self.earlier: dict[str, list[_Sample]] = {}  # rows of parameters that are read again
        self.found: dict[str, Consumer] = {}
        self.replaced: list[tuple[Tensor, Tensor]] = []  # tensors of the pruned model, and their former values

    def carried_out(self) -> Compensation:
        """Solve every map; what fails leaves the model as it was."""
        try:
            return self._walked()
        except BaseException:
            with torch.no_grad():
                for tensor, before in reversed(self.replaced):
                    tensor.data.copy_(before)
            raise

    def _walked(self) -> Compensation:
        pair = self.pair
        each = list(zip(self.runs, self.seeds))
        walks = [Walk(pair.pruned, run, pair.of_pruned, self.flow, seed) for run, seed in each]
        dense_walks = [Walk(pair.dense, run, pair.of_dense, self.dense_flow, seed) for run, seed in each]
        try:
            for walk in walks:
                walk.step()
            passed: set[Key] = set()
            for key in self.flow.order:
                here = []
                for walk, other in zip(walks, dense_walks):
                    while walk.at is not None and walk.at.key in passed:
                        walk.step()
                    if walk.at is not None and walk.at.key == key:
                        here.append((walk, other))
                self._at(key, [(a, b) for a, b in here if _stepped_to(b, key)])
                passed.add(key)
                for walk, _ in here:
                    walk.step()
        finally:
            for walk in (*walks, *dense_walks):
                walk.close()
        for name in sorted(self.flow.computed & pair.cut - {name for name, _ in self.flow.order}):
            self.found[name] = Consumer(name, None, None, NOT_WHOLE)
        return Compensation(tuple(self.found.values()))

    def _at(self, key: Key, walks: list[tuple[Walk, Walk]]) -> None:
        """Solve one map, before which all batches have stopped, with the rows of its earlier readings, if any.

        A cell reads its weights once a step: they are solved at its readings 1, 2, 4, 8, …, and at the last.
        """
        name, number = key
        if not walks:
            self.found.setdefault(name, Consumer(name, None, None, "the dense model does not read it at this place"))
            return
        reading = walks[0][0].at
        assert reading is not None
        reason = TABLE if name in self.flow.looked_up else unsolvable(reading, walks[0][1].at)
        if reason is None:
            samples = [*self.earlier.pop(name, ()), *self._samples(key, walks)]
            last = number + 1 == self.calls[name]
            if not last:
                self.earlier[name] = samples
            if last or number & (number + 1) == 0:
                self.found[name] = self._solved(reading, self.flow.after[key], samples)
        else:
            self.found.setdefault(name, Consumer(name, None, None, reason))

    def _samples(self, key: Key, walks: list[tuple[Walk, Walk]]) -> list[_Sample]:
        """Rows of every batch at one reading. A parameter that is read again and again gives fewer each time."""
        sizes = [w.at.form.positions(w.at.x, w.at.weight) for w, _ in walks if w.at is not None]
        columns = 1 if walks[0][0].at is None else walks[0][0].at.form.matrix(walks[0][0].at.weight).shape[-1]
        share = max(FEWEST_ROWS, ROWS_PER_COLUMN * columns) / sum(sizes) / (key[1] + 1)
        return [self._sample(key, a, b, max(2, round(n * share))) for n, (a, b) in zip(sizes, walks)]

    def _sample(self, key: Key, walk: Walk, dense_walk: Walk, take: int) -> _Sample:
        """Draw rows of one batch, and work out what the map is to give there."""
        here, there = walk.at, dense_walk.at
        assert here is not None and there is not None
        after, dense_after = self.flow.after[key], self.dense_flow.after[key]
        form, total = here.form, here.form.positions(here.x, here.weight)
        drawn = torch.randperm(total, generator=walk.draws)[:take] if take < total else torch.arange(total)
        rows = form.rows(here.x, here.weight, drawn).float()
        matrix = there.form.matrix(there.weight).float()
        wanted = _flat(there.form.rows(there.x, there.weight, drawn).float() @ matrix.mT)
        bias = _value(self.pair.of_dense, dense_after.bias)
        if bias is not None:
            wanted = wanted + bias
        if there.beside is not None:
            wanted = wanted + form.outputs(there.beside, drawn).float()
        lost: Tensor | float = 0.0 if here.beside is None else form.outputs(here.beside, drawn).float()
        if after.other is not None and dense_after.other is not None:
            dense_other, other = dense_walk.taken(dense_after.other), walk.taken(after.other)
            if dense_other is not None and other is not None:
                wanted = wanted + there.form.outputs(dense_after.back(dense_other), drawn).float()
                lost = lost + form.outputs(after.back(other), drawn).float()
        kept = self.pair.kept(here.name, 1 - form.input_dim if form.groups == 1 else 0)
        wanted = (wanted if kept is None else wanted[:, kept]) - lost
        zero = None
        if after.rectified:
            zero = torch.zeros_like(wanted) - lost
            if after.norm is not None:
                scale, offset = after.norm.affine()
                zero = zero - offset / scale
        groups = form.matrix(here.weight).shape[0]
        split = lambda t: t.reshape(len(drawn), groups, -1).transpose(0, 1)  # noqa: E731
        return _Sample(rows, split(wanted), None if zero is None else split(zero), _held(drawn, total, here.x), key[1])

    def _solved(self, reading: Reading, after: After, samples: list[_Sample]) -> Consumer:
        form, weight = reading.form, reading.weight
        old = form.matrix(weight).detach()
        bias = _value(self.pair.of_pruned, after.bias)
        shift = torch.zeros(old.shape[:2]) if bias is None else bias.reshape(old.shape[:2])
        cutoff = None
        if all(s.zero is not None for s in samples):
            sign = torch.ones(old.shape[0], 1, old.shape[1])
            if after.norm is not None:
                sign = after.norm.affine()[0].sign().reshape(old.shape[0], 1, -1)
            cutoff = Cutoff(torch.cat([s.zero for s in samples if s.zero is not None], 1), sign)
        held = torch.cat([s.held for s in samples])
        if bool(held.all()) or not bool(held.any()):
            held = torch.arange(len(held)) % HELD == HELD - 1
        if int((~held).sum()) < 2 or not bool(held.any()):
            return Consumer(reading.name, None, None, "too few inputs", few=True)
        rows, wanted = torch.cat([s.rows for s in samples], 1), torch.cat([s.wanted for s in samples], 1)
        if not bool(rows.isfinite().all()) or not bool(wanted.isfinite().all()):
            return Consumer(reading.name, None, None, "what it is given or gives is not finite")
        few = rows.shape[1] < rows.shape[2]
        solution = solve(
            rows, wanted, old, shift, held,
            weights=_weights(samples), shifts=bias is not None or after.norm is not None, cutoff=cutoff,
        )  # fmt: skip
        if solution.ridge is None:
            return Consumer(reading.name, solution.before, solution.before, "no better on the samples held back", few)
        self._put(reading, after, solution)
        return Consumer(reading.name, solution.before, solution.after, few=few)

    def _put(self, reading: Reading, after: After, solution: SolvedWeights) -> None:
        """Write the solution into the model: weights, and the shift into the bias or into the norm's mean."""
        members = self.pair.of_pruned.members
        self._replace(reading.weight, reading.form.weight(solution.matrix, reading.weight))
        if after.bias is not None:
            bias = members.tensors[after.bias]
            self._replace(bias, solution.shift.reshape(bias.shape))
        elif after.norm is not None:
            mean = members.buffers[after.norm.mean]
            self._replace(mean, mean - solution.shift.reshape(mean.shape).to(mean.dtype))

    def _replace(self, tensor: Tensor, value: Tensor) -> None:
        self.replaced.append((tensor, tensor.detach().clone()))
        self.meant.add(id(tensor))
        tensor.data.copy_(value)


def unsolvable(reading: Reading, dense: Reading | None) -> str | None:
    """Why a map is left as it is; None where it is solved. `dense`: the same map of the dense model."""
    weight, other = reading.weight, None if dense is None else dense.weight
    if other is None or other.dim() != weight.dim():
        return "the dense model reads it in another way"
    if _sparse(weight):
        return "its zeros would be filled"
    if isinstance(reading.form, Convolution) and reading.form.transposed and reading.form.groups > 1:
        return "a transposed convolution in groups"
    return None


def _sparse(weight: Tensor) -> bool:
    """Whether so many weights are zero that somebody made them so."""
    return int((weight == 0).sum()) > SPARSE * weight.numel()


def _stepped_to(walk: Walk, key: Key) -> bool:
    """Let a walk go on to a reading; False where it never comes there."""
    while (found := walk.step()) is not None:
        if found.key == key:
            return True
    return False


def _value(parameters: Parameters, name: str | None) -> Tensor | None:
    return None if name is None else parameters.members.tensors[name].detach().float()


def _weights(samples: Sequence[_Sample]) -> Tensor | None:
    """Where a parameter is read again and again, each reading counts alike, however large its outputs are."""
    if len({s.number for s in samples}) == 1:
        return None
    of_reading: dict[int, float] = {}
    for number in {s.number for s in samples}:
        wanted = torch.cat([s.wanted for s in samples if s.number == number], 1)
        of_reading[number] = 1 / float((wanted - wanted.mean(1, keepdim=True)).square().sum().clamp_min(1e-30))
    largest = max(of_reading.values())
    return torch.cat([torch.full((len(s.held),), of_reading[s.number] / largest) for s in samples])


def _flat(outputs: Tensor) -> Tensor:
    """(groups, rows, outputs of a group) → (rows, outputs)."""
    return outputs.transpose(0, 1).reshape(outputs.shape[1], -1)


def _held(drawn: Tensor, total: int, x: Tensor) -> Tensor:
    """Which rows are held back: whole samples, since positions of one picture resemble each other, else rows."""
    samples = x.shape[0] if x.dim() > 2 else total
    return drawn // (total // samples) % HELD == HELD - 1
