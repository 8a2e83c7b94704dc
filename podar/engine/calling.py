"""Checks the calls of an accelerated model: tensors of the example's shapes and types, all other values equal."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError, UsageError, first_line, sizes
from podar.model.containers import Place, leaves
from podar.model.inputs import arguments
from podar.model.tensors import tensors_in

Arguments = tuple[tuple[Any, ...], dict[str, Any]]


@dataclass(frozen=True)
class Calling:
    """The example's call. What is no tensor (a flag, a factor) is built into the accelerated model: it must be equal.

    - `signature`: of the model's forward, without annotations.
    - `places`: where each value of the example stood: ("x",), ("boxes", 0).
    - `values`: what stood there; of a tensor its shape and type.
    - `open_batch`: axis 0 of every tensor may have another length.
    """

    signature: inspect.Signature
    positional: int
    keywords: tuple[str, ...]
    places: tuple[Place, ...]
    values: tuple[Any, ...]
    open_batch: bool

    def fitted(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Arguments, list[Tensor]]:
        """A call in the example's form, and its tensors in order.

        **Raises:** `PodarError` for anything else than the example's arguments, shapes, types and values.
        """
        if len(args) != self.positional or tuple(kwargs) != self.keywords:
            args, kwargs = self._in_the_examples_form(args, kwargs)
        given = _leaves(args, kwargs)
        tensors = [value for _, value in given if isinstance(value, Tensor)]
        for (_, value), expected in zip(given, self.values):
            if isinstance(expected, _Kind) and not isinstance(value, Tensor):
                raise PodarError(
                    f"this accelerated model takes tensors and got a {type(value).__name__}: convert the input."
                )
        wanted = [value for value in self.values if isinstance(value, _Kind)]
        skip = 1 if self.open_batch else 0
        if [tuple(t.shape)[skip:] for t in tensors] != [kind.shape[skip:] for kind in wanted] or [
            t.ndim for t in tensors
        ] != [len(kind.shape) for kind in wanted]:
            raise PodarError(
                f"this accelerated model was prepared for inputs of {_listed(k.shape for k in wanted)} and got "
                f"{_listed(tuple(t.shape) for t in tensors)}: accelerate the model again with an input of that shape."
            )
        if tuple(place for place, _ in given) != self.places:
            raise PodarError(
                f"this accelerated model was prepared for the inputs {', '.join(map(self._name, self.places))} and got "
                f"{', '.join(self._name(place) for place, _ in given)}: accelerate the model again with these."
            )
        for (place, value), expected in zip(given, self.values):
            if isinstance(expected, _Kind):
                _check_type(value, expected.dtype)
            elif isinstance(value, Tensor) or not _same(value, expected):
                now = "a tensor" if isinstance(value, Tensor) else repr(value)
                raise PodarError(
                    f"{self._name(place)} was {expected!r} when this model was accelerated and is {now} now: "
                    "accelerate the model again with it."
                )
        return (args, kwargs), tensors

    def _in_the_examples_form(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        """What the example gave by position comes by position, the rest by name; defaults are filled in."""
        try:
            bound = self.signature.bind(*args, **kwargs).arguments
        except TypeError as error:
            raise PodarError(f"the inputs do not fit the model's forward: {first_line(error)}.") from error
        parameters = list(self.signature.parameters.values())
        if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
            return args, kwargs  # no other form is known to mean the same
        first = [p.name for p in parameters[: self.positional]]
        defaults = {p.name: p.default for p in parameters}
        for name, value in bound.items():
            if name not in (*first, *self.keywords) and (isinstance(value, Tensor) or not _same(value, defaults[name])):
                raise PodarError(
                    f"{name} was not given when this model was accelerated: accelerate the model again with it."
                )
        values = defaults | bound
        return tuple(values[name] for name in first), {name: values[name] for name in self.keywords}

    def _name(self, place: Place) -> str:
        names = list(self.signature.parameters)
        first = names[place[0]] if isinstance(place[0], int) and place[0] < len(names) else place[0]
        return ".".join(map(str, (first, *place[1:])))


@dataclass(frozen=True)
class _Kind:
    shape: tuple[int, ...]
    dtype: torch.dtype


def calling(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, open_batch: bool) -> Calling:
    """The example's call of a model."""
    bare = [
        inspect.Parameter(p.name, p.kind, default=p.default)
        for p in inspect.signature(model.forward).parameters.values()
    ]
    given = _leaves(args, kwargs)
    values = [_Kind(tuple(v.shape), v.dtype) if isinstance(v, Tensor) else v for _, v in given]
    return Calling(
        inspect.Signature(bare), len(args), tuple(kwargs), tuple(place for place, _ in given), tuple(values), open_batch
    )


def as_arguments(example_inputs: Any) -> Arguments:
    """Example inputs as positional and keyword arguments.

    **Raises:** `UsageError` for what is no tensor, tuple or dict, or holds no tensor; `PodarError` for a tensor that
    does not lie on the CPU.
    """
    given = arguments(example_inputs)
    if given is None:
        raise UsageError("example_inputs is no tensor, tuple or dict: give the model's inputs.")
    tensors = tensors_in(given)
    if not tensors:
        raise UsageError("example_inputs holds no tensor: give the model's inputs.")
    for tensor in tensors:
        _check_device(tensor, "an input")
    return given


def check_on_cpu(model: nn.Module) -> None:
    """**Raises:** `PodarError` where a part of the model lies elsewhere."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        _check_device(tensor, name)


def _leaves(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[tuple[Place, Any]]:
    """Every value of a call; the place of each begins with the argument's position or name."""
    return leaves({**dict(enumerate(args)), **kwargs})


def _check_type(tensor: Tensor, dtype: torch.dtype) -> None:
    if tensor.dtype != dtype:
        raise PodarError(
            f"this accelerated model takes {dtype} and got {tensor.dtype}: convert the input with .to({dtype})."
        )
    _check_device(tensor, "the input")


def _check_device(tensor: Tensor, name: str) -> None:
    if tensor.device.type != "cpu":
        raise PodarError(
            f"the sparse engine runs on the CPU, and {name} lies on {tensor.device}: move the model and its inputs "
            "with .cpu()."
        )


def _same(one: Any, other: Any) -> bool:
    try:
        return one is other or bool(one == other)
    except (TypeError, ValueError, RuntimeError):  # arrays have no single truth
        return False


def _listed(shapes: Iterable[tuple[int, ...]]) -> str:
    return ", ".join(map(sizes, shapes)) or "nothing"
