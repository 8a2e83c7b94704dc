"""Models and files that are to be measured, with inputs of the shapes that were asked for."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from podar.errors import UsageError, check_known, sizes
from podar.model.containers import Place, leaves, name_of, replaced
from podar.model.inputs import argument_names, arguments
from podar.runtimes import open_file
from podar.runtimes.file_inputs import random_inputs

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int, ...]]

_MOST_NUMBERS = 2**30  # 4 GB of float32
_SHAPE = re.compile(r"(?:(?P<name>[^=]+)=)?(?P<sizes>\d+(?:[x×,]\d+)*)")


def parse_shapes(given: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of `--input NAME=1x3x320x320`, by name; "" where a shape stands alone.

    **Raises:** `UsageError` for what is no shape, a size of 0, a name that is given twice.

    ```python
    >>> parse_shapes(["image=1x3x320x320"])
    {'image': (1, 3, 320, 320)}

    ```
    """
    found: dict[str, tuple[int, ...]] = {}
    for text in given:
        match = _SHAPE.fullmatch(text.strip())
        if match is None:
            raise UsageError(f"--input {text!r} is no NAME=SHAPE: write it as image=1x3x320x320.")
        shape = tuple(int(size) for size in re.split("[x×,]", match["sizes"]))
        if min(shape) < 1:
            raise UsageError(f"--input {text!r} has a size of {min(shape)}: every size is a whole number from 1 up.")
        if math.prod(shape) > _MOST_NUMBERS:
            raise UsageError(f"--input {text!r} asks for more than {_MOST_NUMBERS:,} numbers: give smaller sizes.")
        name = match["name"] or ""
        if name in found:
            raise UsageError(f"--input gives {name or 'a shape without a name'} twice: give each input one shape.")
        found[name] = shape
    return found


@dataclass(frozen=True)
class ShapedModel:
    """A model to measure: what the table calls it, the file or module, its example inputs, and their shapes by name.

    `fixed`: the shapes that a file takes, None where any size goes.
    """

    label: str
    model: Path | nn.Module
    inputs: Any
    shapes: Shapes
    fixed: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)


def shaped_file(label: str, path: Path) -> ShapedModel:
    """A model file with random inputs of the shapes that it takes; sizes that it leaves open are 1.

    **Raises:** `PodarError` for a file that its runtime cannot open.
    """
    ports = open_file(path).inputs
    inputs = {name: torch.from_numpy(array) for name, array in random_inputs(ports).items()}
    return ShapedModel(label, path, inputs, _shapes(path, inputs), {port.name: port.shape for port in ports})


def shaped_module(label: str, model: nn.Module, inputs: Any) -> ShapedModel:
    """A torch module with its own example inputs."""
    return ShapedModel(label, model, inputs, _shapes(model, inputs))


def with_shapes(candidate: ShapedModel, asked: Shapes, batch_size: int) -> ShapedModel:
    """The same model with inputs of the shapes that are asked for; the others are repeated to the batch size.

    **Raises:** `UsageError` for another number of axes than the input has, or for sizes that a file does not take.
    """
    have = candidate.shapes
    if asked and not have:
        raise UsageError(f"{candidate.label} makes its own example inputs: --input cannot shape them.")
    if "" in asked and len(have) > 1:
        raise UsageError(
            f"{candidate.label} takes the inputs {', '.join(have)}: name the one that is meant, as in "
            f"--input {next(iter(have))}={'x'.join(map(str, asked['']))}."
        )
    wanted = {name: asked.get(name, asked.get("")) for name in have}
    for name, shape in wanted.items():
        if shape is not None:
            _check_shape(candidate, name, shape)

    def fitted(name: str, tensor: Tensor) -> Tensor:
        shape = wanted[name]
        if shape is None:
            shape = (tensor.shape[0] * batch_size, *tensor.shape[1:]) if tensor.dim() else ()
        # The example's own numbers over and over: token numbers stay within the vocabulary.
        return tensor if shape == tensor.shape else torch.from_numpy(np.resize(tensor.numpy(), shape))

    inputs = _with_tensors(fitted, candidate.model, candidate.inputs)
    return replace(candidate, inputs=inputs, shapes=_shapes(candidate.model, inputs))


def refuse_unknown(asked: Shapes, candidates: Sequence[ShapedModel]) -> None:
    """Refuse a shape of an input that none of the models has.

    **Raises:** `UsageError`.
    """
    names = list(dict.fromkeys(name for candidate in candidates for name in candidate.shapes))
    for name in asked:
        if name:
            check_known("input", name, names)


def _check_shape(candidate: ShapedModel, name: str, shape: tuple[int, ...]) -> None:
    has = candidate.shapes[name]
    if len(shape) != len(has):
        raise UsageError(
            f"--input gives {name} of {candidate.label} the shape {sizes(shape)}, and it has "
            f"{len(has)} axes ({sizes(has)}): give as many sizes."
        )
    fixed = candidate.fixed.get(name, ())
    if any(size not in (None, given) for given, size in zip(shape, fixed)):
        raise UsageError(
            f"--input gives {name} of {candidate.label} the shape {sizes(shape)}, and the file takes only "
            f"{sizes('any' if size is None else size for size in fixed)}."
        )


def _arguments(model: Path | nn.Module, inputs: Any) -> list[tuple[str, Any]]:
    """The arguments among example inputs by the names that an exported file gives them; none of a callable."""
    given = arguments(inputs)
    if given is None:
        return []
    args, kwargs = given
    names = [*kwargs] if isinstance(model, Path) else argument_names(model, args, kwargs)
    return list(zip(names, (*args, *kwargs.values())))


def _shapes(model: Path | nn.Module, inputs: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of all tensors among example inputs, by the names that an exported file gives them."""
    found = [leaf for name, value in _arguments(model, inputs) for leaf in leaves(value, (name,))]
    return {name_of(place): tuple(leaf.shape) for place, leaf in found if isinstance(leaf, Tensor)}


def _with_tensors(function: Callable[[str, Tensor], Tensor], model: Path | nn.Module, inputs: Any) -> Any:
    """The same example inputs with `function(name, tensor)` in place of each tensor."""

    def other(place: Place, leaf: Any) -> Any:
        return function(name_of(place), leaf) if isinstance(leaf, Tensor) else leaf

    named = [(name, replaced(other, value, (name,))) for name, value in _arguments(model, inputs)]
    if isinstance(inputs, Mapping):
        return dict(named)
    return tuple(value for _, value in named) if named else inputs
