"""Sees where a running model multiplies activations with its parameters: each such place is one reading."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from podar.compensation.forms import Convolution, Form, Product
from podar.compensation.recurrence import Recurrence
from podar.model.members import Members
from podar.model.tensors import tensors_in

ATEN = torch.ops.aten

Key = tuple[str, int]
"""A parameter, and how many readings of it came before in one forward pass."""


@dataclass(frozen=True)
class Reading:
    """One multiplication of activations with a parameter.

    **Attributes:**

    - `key`: the parameter's name, and how many readings of it came before in this forward pass.
    - `form`: how inputs and weight become matrices.
    - `x`: the input: (positions, inputs) for a product, (batch, channels, …) for a convolution.
    - `weight`: the parameter itself.
    - `bias`: the name of the parameter that the same operator adds, or None.
    - `beside`: what else is added to the output, position by position; None: nothing that is known here.
    """

    key: Key
    form: Form
    x: Tensor
    weight: Tensor
    bias: str | None
    beside: Tensor | None = None

    @property
    def name(self) -> str:
        """The parameter's name."""
        return self.key[0]


class Parameters:
    """The parameters of a model by the memory they lie in, which views of them share."""

    def __init__(self, model: nn.Module) -> None:
        self.members = Members(model)
        self.by_place: dict[int, list[tuple[str, Tensor]]] = {}
        seen: set[int] = set()
        for name, tensor in self.members.tensors.items():
            if id(tensor) not in seen and isinstance(tensor, nn.Parameter) and tensor.numel():
                seen.add(id(tensor))
                self.by_place.setdefault(tensor.data_ptr(), []).append((name, tensor))

    def named(self, tensor: Any) -> tuple[str, Tensor] | None:
        """The parameter that a tensor is a whole view of, or None."""
        if not isinstance(tensor, Tensor) or tensor.device.type == "meta":
            return None
        for name, parameter in self.by_place.get(tensor.data_ptr(), ()):
            if parameter.numel() == tensor.numel() and parameter.dtype == tensor.dtype:
                return name, parameter
        return None


class Watch(TorchDispatchMode):
    """While it is active, `met` is called before each reading, and `done` after each operator with what it returned.

    A reading that `met` answers by changing the parameter in place is carried out with the changed parameter.
    """

    def __init__(
        self,
        parameters: Parameters,
        met: Callable[[Reading], None],
        done: Callable[[Any, tuple[Any, ...], Any, Reading | None], None] | None = None,
    ) -> None:
        super().__init__()
        self.parameters, self.met, self.done = parameters, met, done
        self.counts: dict[str, int] = {}
        self._recurrence = Recurrence(self._shown, self._whole)
        self._silent = False

    def __enter__(self) -> Watch:
        super().__enter__()
        self._recurrence.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._recurrence.__exit__(*error)
        super().__exit__(*error)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self._silent:
            return func(*args, **(kwargs or {}))
        found = READERS.get(func)
        reading = found(self, args) if found is not None else None
        if reading is not None:
            self.met(reading)
        out = func(*args, **(kwargs or {}))
        if self.done is not None:
            self.done(func, args, out, reading)
        return out

    def _shown(self, weight: Tensor, rows: Tensor, bias: Tensor | None, beside: Tensor | None) -> None:
        """A recurrent layer is about to read one of its weights."""
        found = self.parameters.named(weight)
        if found is None or found[1].shape != weight.shape:
            return
        reading = Reading(self.key(found[0]), Product(), rows, found[1], _name(self, bias), beside)
        self.met(reading)
        if self.done is not None:
            self.done(None, (), rows.new_empty(0), reading)

    def _whole(self, call: Callable[[], Any], func: Any, args: Any) -> Any:
        """A recurrent layer counts as one operator, whatever computes it."""
        self._silent = True
        try:
            out = call()
        finally:
            self._silent = False
        if self.done is not None:
            self.done(func, tuple(t for t in tensors_in(args) if self.parameters.named(t) is None), out, None)
        return out

    def key(self, name: str) -> Key:
        """The next key of a parameter."""
        number = self.counts.get(name, 0)
        self.counts[name] = number + 1
        return name, number


def _convolution(watch: Watch, args: tuple[Any, ...]) -> Reading | None:
    x, w, b, stride, padding, dilation, transposed, output_padding, groups = args
    found = watch.parameters.named(w)
    if found is None or found[1].shape != w.shape or x.dim() != w.dim():
        return None
    rank = w.dim() - 2
    wide = [tuple(v) * rank if len(v) == 1 else tuple(v) for v in (stride, padding, dilation, output_padding)]
    form = Convolution(wide[0], wide[1], wide[2], transposed, wide[3], groups)
    return Reading(watch.key(found[0]), form, x, found[1], _name(watch, b))


def _addmm(watch: Watch, args: tuple[Any, ...]) -> Reading | None:
    return _product(watch, args[1], args[2], args[0])


def _mm(watch: Watch, args: tuple[Any, ...]) -> Reading | None:
    return _product(watch, args[0], args[1], None)


def _product(watch: Watch, x: Tensor, w: Tensor, bias: Any) -> Reading | None:
    """`x @ w`, where w is a parameter or one turned over."""
    found = watch.parameters.named(w)
    if found is None or watch.parameters.named(x) is not None:
        return None
    name, parameter = found
    if parameter.dim() != 2:
        return None
    if w.shape == parameter.shape and w.stride() == parameter.stride():
        return Reading(watch.key(name), Product(inputs_first=True), x, parameter, _name(watch, bias))
    if w.shape == parameter.shape[::-1] and w.stride() == parameter.stride()[::-1]:
        return Reading(watch.key(name), Product(), x, parameter, _name(watch, bias))
    return None


def _linear(watch: Watch, args: tuple[Any, ...]) -> Reading | None:
    found = watch.parameters.named(args[1])
    if found is None or found[1].shape != args[1].shape:
        return None
    return Reading(watch.key(found[0]), Product(), args[0], found[1], _name(watch, args[2] if len(args) > 2 else None))


def _name(watch: Watch, bias: Any) -> str | None:
    found = watch.parameters.named(bias)
    return None if found is None else found[0]


READERS: dict[Any, Callable[[Watch, tuple[Any, ...]], Reading | None]] = {
    ATEN.convolution.default: _convolution,
    ATEN.addmm.default: _addmm,
    ATEN.mm.default: _mm,
    ATEN.linear.default: _linear,
}
