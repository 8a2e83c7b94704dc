"""All linear maps of a pruned model together: a few steps of natural gradient towards what the dense one computes.

Solved one after the other, each map accepts the errors of those before it, and does not know which outputs matter to
those behind it. Here the squared errors of all maps, as shares of what the dense outputs spread, are one sum, and its
gradient moves all maps at once. Each gradient is multiplied by the inverse second moments of the map's inputs, which is
the step that least squares would take (Benzing 2022, "Gradient descent on neurons"; without the factor of the outputs
it is K-FAC, Martens and Grosse 2015). That makes a hundred steps do what plain gradients need thousands for.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from podar.compensation.calls import Calls, calls_that_return
from podar.compensation.flow import Flow
from podar.compensation.forms import Convolution, Form
from podar.compensation.inputs import HELD
from podar.compensation.pair import Pair
from podar.compensation.readings import Parameters, Reading, Watch
from podar.compensation.report import Refinement
from podar.compensation.statistics import checksum, moments
from podar.errors import PodarError, first_line
from podar.model.batches import rows, run, size
from podar.model.tensors import map_tensors, tensors_in

STEPS = 100
"""Steps at most; fewer where `WORK` does not allow them."""

WORK = 1e12
"""Multiplications that all steps may take together, some forty seconds of one core; on other devices `FASTER` times."""

FASTER = 100

FEWEST = 16
"""Where `WORK` allows fewer steps than this, none is taken, since so few would change next to nothing."""

SAMPLES = 64
"""Samples a step; fewer where the activations of so many do not fit into `ACTIVATIONS`."""

ACTIVATIONS = 2 << 30
"""Bytes that the activations of one step may take."""

STEP = 0.1
"""A step changes a map's outputs by this share of the root of the relative error at most, so that it is the smaller the
nearer the models are; it falls to zero along half a cosine."""

DAMPING = 1e-2
"""Share of the mean of the second moments' diagonal that is added to it."""

WIDEST = 4096
"""Maps with more columns have the inverse of the diagonal alone: the whole one would take longer than all steps."""

MIXED = 0.5
"""Where the same inputs come again they are mixed, each with up to this share of another one of its portion. The dense
model tells what it gives for these, so nothing has to be known of them (Zhang et al. 2018, "mixup", without labels)."""

MOMENTUM = 0.9

RATE = 1e-3
"""The learning rate of Adam, which moves biases and the norms' scales and offsets."""


@dataclass(frozen=True)
class _Tap:
    """A tensor inside the model that is to become what it is in the dense model.

    **Attributes:**

    - `call`, `dense_call`: the calls that return it.
    - `axis`: its channels. `kept`: those that the pruned model kept; None: all.
    - `spread`: mean squared distance of the dense model's from the mean of its channel.
    """

    call: int
    dense_call: int
    axis: int
    kept: Tensor | None
    spread: float

    def wanted(self, dense: Tensor) -> Tensor:
        """What of the dense model's tensor the pruned one is to give; a copy that nobody writes into."""
        return dense.clone() if self.kept is None else dense.index_select(self.axis, self.kept)


@dataclass
class _Map:
    """A linear map that moves: its parameter, and what its gradient is multiplied by."""

    weight: Tensor
    form: Form
    inverse: Tensor  # (groups, columns, columns), or (groups, 1, columns) of a diagonal
    size: float  # root of the mean square of the outputs, over all of them
    momentum: Tensor

    def move(self, gradient: Tensor, step: float) -> None:
        slope = self.form.matrix(gradient).float()
        way = slope * self.inverse if self.inverse.shape[1] == 1 else slope @ self.inverse
        length = float((way * slope).sum().clamp_min(0).sqrt())
        if length > 0 and math.isfinite(length):
            self.momentum.mul_(MOMENTUM).add_(way, alpha=(1 - MOMENTUM) * self.size / length)
        self.weight.data.sub_(self.form.weight(step * self.momentum, self.weight))


def refine(
    pair: Pair,
    flow: Flow,
    dense_flow: Flow,
    batches: Sequence[Any],
    further: Callable[[int], Sequence[Any]],
    names: Sequence[str],
    seed: int,
) -> Refinement:
    """Move the maps of the pruned model together, in place; undone where samples held back show no gain.

    **Arguments:**

    - `flow`, `dense_flow`: what follows the readings of the two models.
    - `batches`: inputs. `further`: more of them, so many samples where there are as many: each step then sees its own.
    - `names`: the maps that may move.
    - `seed`: of the order of the steps, and of the rows of the second moments.
    """
    try:
        maps = _movable(pair, names)
        taps, train, held, steps = _prepared(pair, flow, dense_flow, batches, further)
        return _moved(pair, taps, _maps(pair, batches, maps, seed), train, held, steps, seed)
    except PodarError as error:
        return Refinement(left=str(error))
    except (RuntimeError, NotImplementedError) as error:
        return Refinement(left=f"no gradient passes through the model ({first_line(error)})")


def _movable(pair: Pair, names: Sequence[str]) -> list[str]:
    """The maps whose weights are precise enough for small steps.

    **Raises:** `PodarError`: there is none.
    """
    tensors = pair.of_pruned.members.tensors
    found = [name for name in names if tensors[name].dtype in (torch.float32, torch.float64)]
    if not found:
        raise PodarError("no map has weights in single or double precision" if names else "no map was solved")
    return found


def _prepared(
    pair: Pair, flow: Flow, dense_flow: Flow, batches: Sequence[Any], further: Callable[[int], Sequence[Any]]
) -> tuple[list[_Tap], list[Any], list[Any], int]:
    """What is compared, the inputs of the steps in portions, those held back, and how many steps are taken.

    **Raises:** `PodarError` with the reason why no step can be taken.
    """
    few = rows(batches[0], 0, min(8, size(batches[0])), size(batches[0]))
    taps, need = _taps(pair, flow, dense_flow, few)
    if not taps:
        raise PodarError("no tensor on the way can be compared with the dense model's")
    samples = max(4, min(SAMPLES, int(ACTIVATIONS / need)))
    train, held = _divided(batches, samples)
    if not train or not held:
        raise PodarError("too few inputs")
    each = 3 * _work(pair.pruned, pair.of_pruned, few) + _work(pair.dense, pair.of_dense, few)
    device = next(iter(pair.of_pruned.members.tensors.values())).device
    allowed = WORK * (1 if device.type == "cpu" else FASTER) / (each / size(few) * samples)
    steps = int(min(STEPS, allowed))
    if steps < FEWEST:
        raise PodarError(f"{FEWEST} steps would take {FEWEST / allowed * WORK:.0e} multiplications")
    train += _portions(sorted(further(steps * samples - sum(map(size, train))), key=checksum), samples)
    return taps, train, held, steps


def _moved(
    pair: Pair,
    taps: Sequence[_Tap],
    maps: Sequence[_Map],
    train: Sequence[Any],
    held: Sequence[Any],
    steps: int,
    seed: int,
) -> Refinement:
    before = _error(pair, taps, held)
    tensors = _moving(pair, maps)
    undo = [(t, t.detach().clone()) for t in tensors]
    try:
        with _gradients(tensors):
            _walk(pair, taps, train, maps, tensors, steps, STEP * math.sqrt(min(before, 1.0)), seed)
        after = _error(pair, taps, held)
    except BaseException:
        _put_back(undo)
        raise
    if not after < before:
        _put_back(undo)
        return Refinement(before, before, 0, "no better on the samples held back")
    return Refinement(before, after, steps)


def _put_back(undo: Sequence[tuple[Tensor, Tensor]]) -> None:
    for tensor, value in undo:
        tensor.data.copy_(value)


def _divided(batches: Sequence[Any], samples: int) -> tuple[list[Any], list[Any]]:
    """Inputs for the steps, in portions, and those that are held back."""
    train: list[Any] = []
    held: list[Any] = []
    small = 0
    for portion in _portions(batches, samples):
        count = size(portion)
        apart = count // HELD
        if apart:
            train.append(rows(portion, 0, count - apart, count))
            held.append(rows(portion, count - apart, count, count))
        else:
            small += 1
            (held if small % HELD == 0 else train).append(portion)
    return train, held


def _portions(batches: Sequence[Any], samples: int) -> list[Any]:
    """The same samples, so many at a time."""
    counted = [(batch, size(batch)) for batch in batches]
    return [rows(b, k, min(k + samples, n), n) for b, n in counted for k in range(0, n, samples)]


def _taps(pair: Pair, flow: Flow, dense_flow: Flow, few: Any) -> tuple[list[_Tap], float]:
    """The tensors that are compared, and the bytes that the activations of one sample take, roughly."""
    ends = {key: flow.ends[key] for key in flow.order if key in flow.ends and key in dense_flow.ends}
    calls = calls_that_return(pair.pruned, lambda m: run(m, few), pair.of_pruned, set(ends.values()))
    dense_calls = calls_that_return(
        pair.dense, lambda m: run(m, few), pair.of_dense, {dense_flow.ends[key] for key in ends}
    )
    got = _results(pair.pruned, few, dict.fromkeys(calls.values(), Tensor.clone))
    wanted = _results(pair.dense, few, dict.fromkeys(dense_calls.values(), Tensor.clone))
    found: dict[int, _Tap] = {}
    for key, end in ends.items():
        call, dense_call = calls.get(end), dense_calls.get(dense_flow.ends[key])
        if call is None or dense_call is None or call in found:
            continue
        tap = _tap(pair, key[0], flow, call, dense_call, got[call], wanted[dense_call])
        if tap is not None:
            found[call] = tap
    need = 3 * sum(wanted[t.dense_call].numel() * 4 for t in found.values()) / size(few)
    return list(found.values()), max(need, 1.0)


def _tap(pair: Pair, name: str, flow: Flow, call: int, dense_call: int, got: Tensor, wanted: Tensor) -> _Tap | None:
    """None where the two tensors cannot be compared index by index."""
    if got.dim() != wanted.dim() or not got.is_floating_point() or got.dim() < 2:
        return None
    form = flow.forms[name]
    kept = pair.kept(name, 1 - form.input_dim if form.groups == 1 else 0)
    differ = [k for k in range(got.dim()) if got.shape[k] != wanted.shape[k]]
    axis = 1 if isinstance(form, Convolution) else got.dim() - 1
    if differ:
        axis = differ[0]
        if len(differ) > 1 or kept is None or len(kept) != got.shape[axis] or int(kept.max()) >= wanted.shape[axis]:
            return None
        kept = kept.to(wanted.device)
    tap = _Tap(call, dense_call, axis, kept if differ else None, 1.0)
    target = tap.wanted(wanted).float()
    mean = target.mean([k for k in range(target.dim()) if k != axis], keepdim=True)
    spread = float((target - mean).square().mean())
    if not math.isfinite(spread) or spread <= torch.finfo(torch.float32).tiny:
        return None
    return _Tap(call, dense_call, axis, tap.kept, spread)


def _results(model: nn.Module, inputs: Any, read: Mapping[int, Callable[[Tensor], Tensor]]) -> dict[int, Tensor]:
    """What `read` makes of the tensors that some calls return, by the calls; the model runs without gradients."""
    found: dict[int, Tensor] = {}

    def seen(call: int, tensor: Tensor) -> None:
        if call in read:
            found[call] = read[call](tensor.detach())

    with torch.no_grad(), Calls(seen):
        run(model, inputs)
    return found


def _loss(pair: Pair, taps: Sequence[_Tap], inputs: Any) -> Tensor:
    """Sum over the taps of mean squared error, as a share of the spread."""
    by_call = {t.call: t for t in taps}
    wanted = _results(pair.dense, inputs, {t.dense_call: t.wanted for t in taps})
    errors: list[Tensor] = []

    def seen(call: int, tensor: Tensor) -> None:
        tap = by_call.get(call)
        if tap is not None and tap.dense_call in wanted:
            errors.append((tensor - wanted[tap.dense_call]).square().mean() / tap.spread)

    with Calls(seen):
        run(pair.pruned, inputs)
    return torch.stack(errors).sum()


def _error(pair: Pair, taps: Sequence[_Tap], held: Sequence[Any]) -> float:
    """Mean over the taps and the samples held back."""
    with torch.no_grad():
        each = [float(_loss(pair, taps, inputs)) * size(inputs) for inputs in held]
    return sum(each) / len(taps) / sum(size(inputs) for inputs in held)


def _maps(pair: Pair, batches: Sequence[Any], names: Sequence[str], seed: int) -> list[_Map]:
    found = []
    for name, stats in moments(pair.pruned, batches, pair.of_pruned, set(names), seed).items():
        weight = pair.of_pruned.members.tensors[name]
        products = (stats.products / stats.count).float()
        matrix = stats.form.matrix(weight).detach().float().cpu()
        mean = products.diagonal(dim1=1, dim2=2)
        damping = (DAMPING * mean.mean(1)).clamp_min(torch.finfo(torch.float32).tiny)
        if products.shape[-1] > WIDEST:
            inverse = (1 / (mean + damping.unsqueeze(1))).unsqueeze(1)
        else:
            damped = products + torch.diag_embed(damping.unsqueeze(1).expand_as(mean))
            inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        length = float(((matrix @ products) * matrix).sum().clamp_min(0).sqrt())
        inverse = inverse.to(weight.device)
        found.append(_Map(weight, stats.form, inverse, length, torch.zeros_like(matrix).to(weight.device)))
    return found


def _moving(pair: Pair, maps: Sequence[_Map]) -> list[Tensor]:
    """The maps' parameters, then biases and the norms' scales and offsets."""
    own = {id(m.weight) for m in maps}
    rest = [p for p in pair.of_pruned.members.parameters.values() if p.dim() == 1 and p.dtype == torch.float32]
    return [m.weight for m in maps] + list({id(p): p for p in rest if id(p) not in own}.values())


@contextmanager
def _gradients(tensors: Sequence[Tensor]) -> Iterator[None]:
    """Gradients of these parameters can be asked for; afterwards each wants them as it did before."""
    before = [t.requires_grad for t in tensors]
    try:
        for t in tensors:
            t.requires_grad_(True)
        with torch.enable_grad():
            yield
    finally:
        for t, wanted in zip(tensors, before):
            t.requires_grad_(wanted)


def _walk(
    pair: Pair,
    taps: Sequence[_Tap],
    train: Sequence[Any],
    maps: Sequence[_Map],
    tensors: Sequence[Tensor],
    steps: int,
    largest: float,
    seed: int,
) -> None:
    """Take the steps. `tensors`: the maps' parameters, then the others that move."""
    rest = [nn.Parameter(t.data) for t in tensors[len(maps) :]]  # the same memory, with gradients of their own
    adam = torch.optim.Adam(rest or [torch.zeros(1)], lr=RATE)
    generator = torch.Generator().manual_seed(seed)
    order: list[int] = []
    for step in range(steps):
        order = order or torch.randperm(len(train), generator=generator).tolist()
        inputs = train[order.pop()]
        loss = _loss(pair, taps, inputs if step < len(train) else _mixed(inputs, generator))
        gradients = torch.autograd.grad(loss, tensors, allow_unused=True)
        if not bool(loss.isfinite()):
            raise PodarError("the error is not finite any more")
        share = min(1.0, 10 * (step + 1) / steps) * (1 + math.cos(math.pi * step / steps)) / 2
        with torch.no_grad():
            for map_, gradient in zip(maps, gradients):
                if gradient is not None:
                    map_.move(gradient, largest * share)
            for parameter, gradient in zip(rest, gradients[len(maps) :]):
                parameter.grad = gradient
            adam.param_groups[0]["lr"] = RATE * share
            adam.step()


def _mixed(inputs: Any, generator: torch.Generator) -> Any:
    """Inputs between those of a portion; the portion itself where it holds anything but floating-point numbers."""
    count = size(inputs)
    if not all(t.is_floating_point() and t.dim() and len(t) == count for t in tensors_in(inputs)):
        return inputs
    others = torch.randperm(count, generator=generator)
    share = MIXED * torch.rand(count, generator=generator)

    def mixed(t: Tensor) -> Tensor:
        return torch.lerp(t, t[others.to(t.device)], share.to(t).view(-1, *[1] * (t.dim() - 1)).expand_as(t))

    return map_tensors(mixed, inputs)


def _work(model: nn.Module, parameters: Parameters, inputs: Any) -> float:
    """Multiplications of the model's linear maps on some inputs."""
    found = 0.0

    def met(reading: Reading) -> None:
        nonlocal found
        found += reading.form.positions(reading.x, reading.weight) * reading.weight.numel()

    with torch.no_grad(), Watch(parameters, met):
        run(model, inputs)
    return found
