"""What follows a reading: the norm that can take a shift, the sum with another branch, a ReLU.

One forward pass on a small input shows it. Later passes find the same operators by their numbers.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from podar.compensation.computed import Computed
from podar.compensation.forms import Form
from podar.compensation.readings import ATEN, Key, Parameters, Reading, Watch
from podar.model.tensors import tensors_in

SHAPES = {ATEN.view.default, ATEN._unsafe_view.default, ATEN.reshape.default, ATEN.unsqueeze.default}
SHAPES |= {ATEN.squeeze.dim, ATEN.squeeze.default, ATEN.alias.default, ATEN.clone.default, ATEN.detach.default}
NORMS = {ATEN.native_batch_norm.default, ATEN._native_batch_norm_legit_no_training.default}
NORMS |= {ATEN.cudnn_batch_norm.default, ATEN._native_batch_norm_legit.default}
SUMS = {ATEN.add.Tensor, ATEN.add_.Tensor}
RELUS = {ATEN.relu.default, ATEN.relu_.default}

TINY = 1e-2
"""A channel whose scale is below this share of the mean scale makes up for nothing: its inverse is too large."""

Back = Callable[[Tensor], Tensor]
"""Carries a tensor of a sum's shape back into the shape and scale of a reading's output."""


@dataclass(frozen=True)
class NormBehind:
    """A batch norm in evaluation: outputs times a scale, plus an offset.

    **Attributes:**

    - `mean`: name of its running mean.
    """

    mean: str
    _weight: Tensor | None
    _bias: Tensor | None
    _mean: Tensor
    _variance: Tensor
    _eps: float

    def affine(self) -> tuple[Tensor, Tensor]:
        """Scale and offset as they are now, (channels,) each."""
        scale = torch.rsqrt(self._variance + self._eps)
        scale = scale if self._weight is None else scale * self._weight
        return scale, (0 if self._bias is None else self._bias) - self._mean * scale

    def back(self, t: Tensor) -> Tensor:
        """Divide (batch, channels, …) by the scale."""
        return _divided(t, self.affine()[0].view(1, -1, *[1] * (t.dim() - 2)))


@dataclass
class After:
    """What follows one reading.

    **Attributes:**

    - `made`: number of the reading's own operator.
    - `bias`: name of the parameter that is added to the output, by the reading's operator or right after it; or None.
    - `norm`: the batch norm that alone reads the output, or None.
    - `other`: number of the operator that made the other branch of the sum that the output flows into, where that
      branch comes first; or None.
    - `chain`: what lies between the output and that sum, from the output on.
    - `rectified`: a ReLU alone reads what becomes of the output: itself, its norm, or the sum.
    """

    made: int
    bias: str | None = None
    norm: NormBehind | None = None
    other: int | None = None
    chain: tuple[Back, ...] = ()
    rectified: bool = False

    def back(self, t: Tensor) -> Tensor:
        """Carry a tensor of the sum's shape back through what lies between."""
        for step in reversed(self.chain):
            t = step(t)
        return t


@dataclass
class Flow:
    """The readings of one model in order, and what follows each.

    **Attributes:**

    - `order`: the readings. `after`: what follows each.
    - `computed`: parameters that are read through computed weights. `looked_up`: those of which rows are.
    - `ends`: by reading, the number of the operator whose result is the last that depends on its output alone: its own,
      its norm's, the sum's into which it flows, or that of the ReLU behind these.
    - `forms`: how each parameter is read, by its name.
    """

    order: list[Key] = field(default_factory=list)
    after: dict[Key, After] = field(default_factory=dict)
    computed: set[str] = field(default_factory=set)
    ends: dict[Key, int] = field(default_factory=dict)
    forms: dict[str, Form] = field(default_factory=dict)
    looked_up: set[str] = field(default_factory=set)

    @property
    def awaited(self) -> set[int]:
        """Numbers of the operators whose results are needed for the target of a later reading."""
        return {a.other for a in self.after.values() if a.other is not None}


def follow(model: nn.Module, run: Callable[[nn.Module], Any], parameters: Parameters) -> Flow:
    """Run a model once (`run(model)`, in eval mode) and see what follows its readings."""
    tracker = _Tracker(parameters)
    with torch.no_grad(), Watch(parameters, tracker.met, tracker.done):
        run(model)
    return tracker.finish()


@dataclass(frozen=True)
class _Branch:
    """A tensor that is the output of one reading, only scaled, moved and reshaped."""

    key: Key
    chain: tuple[Back, ...]


@dataclass(frozen=True)
class _Sum:
    """A sum in which a branch meets another one: the operators that made the two, and the sum's own number."""

    branch: _Branch
    own: int
    other: int
    number: int


class _Tracker:
    def __init__(self, parameters: Parameters) -> None:
        self.parameters = parameters
        self.buffers = {t.data_ptr(): n for n, t in parameters.members.buffers.items() if t.numel()}
        self.flow = Flow()
        self.count = 0
        self.kept: list[Any] = []  # every tensor is held, so that no other gets its id
        self.maker: dict[int, int] = {}  # by id of a tensor: the operator that made it
        self.readers: dict[int, int] = {}  # by operator: how many others read what it made
        self.branches: dict[int, _Branch] = {}  # by operator
        self.ends: dict[Key, int] = {}  # by reading: the operator whose result is rectified, or not
        self.rectified: dict[int, int] = {}  # by operator: the ReLU that reads its result
        self.sums: list[_Sum] = []
        self.computed = Computed(parameters)

    def met(self, reading: Reading) -> None:
        self.flow.order.append(reading.key)
        self.flow.forms.setdefault(reading.name, reading.form)

    def done(self, func: Any, args: tuple[Any, ...], out: Any, reading: Reading | None) -> None:
        number, self.count = self.count, self.count + 1
        if reading is None:
            self.computed.done(func, args, out)
        self.kept.append((args, out))
        for t in tensors_in(args):
            made = self.maker.get(id(t))
            if made is not None:
                self.readers[made] = self.readers.get(made, 0) + 1
        result = first_tensor(out)
        if result is None:
            return
        if reading is not None:
            self.flow.after[reading.key] = After(number, reading.bias)
            self.branches[number] = _Branch(reading.key, ())
            self.ends[reading.key] = number
        elif args and isinstance(args[0], Tensor):
            self._passed_on(func, args, result, number)
        self.maker[id(result)] = number

    def _passed_on(self, func: Any, args: tuple[Any, ...], result: Tensor, number: int) -> None:
        entered = self.maker.get(id(args[0]))
        if func in RELUS and entered is not None:
            self.rectified[entered] = number
        branch = None if entered is None else self.branches.get(entered)
        if func in SUMS and isinstance(args[1], Tensor):
            if branch is None or not self._bias(branch, args[1], number):
                self._sum(args[0], args[1], number)
            return
        if branch is None:
            return
        back = self._norm(branch, args, number) if func in NORMS else _back(func, args, self.maker)
        if back is not None:
            self.branches[number] = _Branch(branch.key, (*branch.chain, back))

    def _bias(self, branch: _Branch, added: Tensor, number: int) -> bool:
        """Note a bias that the next operator adds: torch splits a linear layer where its input is not contiguous."""
        after = self.flow.after[branch.key]
        named = self.parameters.named(added)
        if named is None or added.dim() != 1 or after.bias is not None or after.norm is not None:
            return False
        after.bias = named[0]
        self.branches[number] = branch
        self.ends[branch.key] = number
        return True

    def _norm(self, branch: _Branch, args: tuple[Any, ...], number: int) -> Back | None:
        mean, variance = args[3], args[4]
        if not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
            return None
        eps = next(a for a in reversed(args) if isinstance(a, float))
        norm = NormBehind(self.buffers.get(mean.data_ptr(), ""), args[1], args[2], mean, variance, eps)
        after = self.flow.after[branch.key]
        if not branch.chain and norm.mean:
            after.norm = norm
            self.ends[branch.key] = number
        return norm.back

    def _sum(self, a: Tensor, b: Tensor, number: int) -> None:
        """Note a sum of two branches: the reading that comes last can make up for what the other branch lost."""
        if a.shape != b.shape:
            return
        one, two = self.maker.get(id(a)), self.maker.get(id(b))
        for own, other in ((one, two), (two, one)):
            branch = None if own is None else self.branches.get(own)
            if branch is None or own is None or other is None:
                continue
            if other < self.flow.after[branch.key].made:
                self.sums.append(_Sum(branch, own, other, number))

    def finish(self) -> Flow:
        self.flow.computed, self.flow.looked_up = self.computed.found, self.computed.looked_up
        for met in self.sums:
            if self.readers.get(met.own) == 1:  # nothing else reads it, so it may take over what the other lost
                after = self.flow.after[met.branch.key]
                after.other, after.chain = met.other, met.branch.chain
                self.ends[met.branch.key] = met.number
        for key, after in self.flow.after.items():
            if after.norm is not None and self.readers.get(after.made) != 1:
                after.norm = None  # something else reads the output before the sum
                self.flow.ends[key] = after.made
                continue
            end = self.ends[key]
            after.rectified = end in self.rectified and self.readers.get(end) == 1
            self.flow.ends[key] = self.rectified[end] if after.rectified else end
        return self.flow


def _back(func: Any, args: tuple[Any, ...], made: dict[int, int]) -> Back | None:
    """How to undo an operator that only moves or scales its first argument; None for any other."""
    x = args[0]
    if func in SHAPES:
        rest = x.shape[1:]
        return lambda t: t.reshape(-1, *rest)
    if func is ATEN.permute.default:
        order = torch.argsort(torch.tensor([d % x.dim() for d in args[1]])).tolist()
        return lambda t: t.permute(order)
    if func is ATEN.transpose.int:
        return lambda t: t.transpose(args[1], args[2])
    if func is ATEN.mul.Tensor and isinstance(args[1], Tensor) and id(args[1]) not in made:
        return lambda t: _divided(t, args[1])  # a layer scale
    return None


def first_tensor(out: Any) -> Tensor | None:
    """What an operator made: its only result, or the first of several."""
    out = out[0] if isinstance(out, (tuple, list)) and out else out
    return out if isinstance(out, Tensor) else None


def _divided(t: Tensor, scale: Tensor) -> Tensor:
    tiny = scale.abs() <= TINY * scale.abs().mean()
    return torch.where(tiny, 0, t / torch.where(tiny, 1, scale))
