"""Example inputs: a tensor, a tuple, a dict of keyword arguments, or a callable that runs the model."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from podar.model.tensors import named_tensors

ExampleInputs = Tensor | tuple[Any, ...] | list[Any] | Mapping[str, Any] | Callable[[nn.Module], Any]


def arguments(inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Example inputs as positional and keyword arguments; None for what is no tensor, tuple or dict (a callable)."""
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    return (tuple(inputs), {}) if isinstance(inputs, (tuple, list)) else None


def argument_names(model: nn.Module, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[str]:
    """What each argument of a call is called: first `args`, by the parameters of forward, then `kwargs`, by their own.

    What goes into `*images` is called `images_0`, `images_1` and so on.
    """
    parameters = list(inspect.signature(model.forward).parameters.values())
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    rest = next((f"{p.name}_" for p in parameters if p.kind is p.VAR_POSITIONAL), "")
    names += [f"{rest}{number}" for number in range(len(args) - len(names))]
    return [*names[: len(args)], *kwargs]


def call(model: nn.Module, inputs: ExampleInputs) -> Any:
    """Run the model on example inputs."""
    given = arguments(inputs)
    if given is not None:
        return model(*given[0], **given[1])
    if callable(inputs):
        return inputs(model)
    raise TypeError(
        f"example_inputs is a {type(inputs).__name__}; give a tensor, a tuple of arguments, "
        "a dict of keyword arguments, or a callable that takes the model and runs it"
    )


def example_tensors(inputs: ExampleInputs) -> list[Tensor]:
    """The tensors among the example inputs (none are known of a callable)."""
    return [t for _, t in named_tensors(inputs)]
