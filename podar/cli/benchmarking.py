"""What `podar bench` measures: what the command line names, with inputs of the shapes that it asks for."""

from __future__ import annotations

import contextlib
import inspect
import math
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from podar.errors import PodarError, UsageError, nearest, sizes
from podar.measuring import side_by_side
from podar.runtimes import RUNTIMES, open_file
from podar.runtimes.file_inputs import drawn
from podar.trust import programs
from podar.trust.plain import read_json

if TYPE_CHECKING:
    from torch import nn

Shapes = Mapping[str, tuple[int, ...]]

# What is not known of a model that does not run.
_NOTHING = dict.fromkeys("params macs bytes memory_bytes memory_baseline_bytes latency_ms energy_joules".split())

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
class Candidate:
    """A model to measure: what the table calls it, the file or module, its example inputs, and their shapes by name.

    `fixed`: the shapes that a file takes, None where any size goes.
    """

    label: str
    model: Path | nn.Module
    inputs: Any
    shapes: Shapes
    fixed: Mapping[str, tuple[int | None, ...]] = field(default_factory=dict)


def bench_models(
    names: Sequence[str],
    *,
    weights: str | None = None,
    model_args: Mapping[str, Any] | None = None,
    runtimes: Sequence[str] = (),
    threads: int = 1,
    seconds: float = 3.0,
    batch_size: int = 1,
    shapes: Shapes | None = None,
    trust: bool = False,
) -> list[dict[str, Any]]:
    """Measure models and files in turn, on every runtime that runs them.

    **Arguments:**

    - `names`: exported files, run folders (their dense and pruned files), or MODELs, which are run by torch and,
      exported on the way, by the runtimes of files.
    - `shapes`: input name → shape, in place of the example's; "" names the only input.
    - `batch_size`: how often inputs whose shape was not asked for are repeated along axis 0.

    **Returns:** one mapping a model and runtime: `model`, `inputs` (shapes by name), `runtime`, and what
    `podar.measure` finds, or the `reason` why it found nothing.

    **Raises:** `UsageError` for a shape of an input that none of the models has, or of another number of axes.
    """
    asked = dict(shapes or {})
    with tempfile.TemporaryDirectory(prefix="podar-bench-") as scratch:
        candidates: list[Candidate] = []
        for name in names:
            opened = _opened(name, weights, dict(model_args or {}), trust)
            candidates += [_shaped(candidate, asked, batch_size) for candidate in opened]
        _refuse_unknown(asked, candidates)
        candidates = [each for candidate in candidates for each in _with_file(candidate, Path(scratch))]
        lines = side_by_side(
            [candidate.model for candidate in candidates],
            inputs=[candidate.inputs for candidate in candidates],
            runtimes=runtimes or None,
            threads=threads,
            seconds=seconds,
        )
    return [
        {
            "model": candidates[line.place].label,
            "inputs": {name: list(shape) for name, shape in candidates[line.place].shapes.items()},
            "runtime": line.runtime,
            **(line.measured.to_json() if line.measured else {**_NOTHING, "reason": line.reason}),
        }
        for line in lines
    ]


def _opened(name: str, weights: str | None, model_args: dict[str, Any], trust: bool) -> list[Candidate]:
    """What one name stands for: a file, the two files of a run folder, or a model."""
    path = Path(name)
    if any(path.suffix.lower() in runtime.suffixes for runtime in RUNTIMES.values()):
        if not path.is_file():
            raise PodarError(f"there is no file {name}.")
        files = [(name, path)]
    else:
        files = _exports(path)
    for _, file in files:
        if trust and file.is_file():
            programs.remember(file)
    if files:
        return [_file(label, file) for label, file in files]
    from podar.sources.opening import open_source

    source = open_source(name, weights=weights, model_args=model_args, trust=trust)
    return [_candidate(name, source.build(), source.inputs())]


def _file(label: str, path: Path) -> Candidate:
    ports = open_file(path).inputs
    inputs = {name: torch.from_numpy(array) for name, array in drawn(ports).items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in inputs.items()}
    return Candidate(label, path, inputs, shapes, {port.name: port.shape for port in ports})


def _candidate(label: str, model: Path | nn.Module, inputs: Any) -> Candidate:
    return Candidate(label, model, inputs, {name: tuple(t.shape) for name, t in _named(model, inputs)})


def _with_file(candidate: Candidate, scratch: Path) -> Iterator[Candidate]:
    """A model's exported file first, where it can be exported; what cannot is still measured in torch."""
    if not isinstance(candidate.model, Path):
        from podar.formats import export

        with contextlib.suppress(PodarError):
            file = scratch / f"{len(list(scratch.iterdir()))}.onnx"
            export(candidate.model, file, candidate.inputs)
            yield Candidate(candidate.label, file, candidate.inputs, candidate.shapes)
    yield candidate


def _exports(folder: Path) -> list[tuple[str, Path]]:
    """The dense and the pruned file of a run folder, if it has them."""
    try:
        exports = read_json(folder / "summary.json")["exports"].values()
        found = [
            (f"{folder} {half}", folder / files[key])
            for files in exports
            for half, key in (("dense", "dense_file"), ("pruned", "file"))
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    outside = next((path for _, path in found if not path.resolve().is_relative_to(folder.resolve())), None)
    if outside is not None:
        raise PodarError(f"{folder / 'summary.json'} names {outside}, which lies outside its folder.")
    return found


# --- inputs and their shapes ----------------------------------------------------------------------------------------


def _shaped(candidate: Candidate, asked: Shapes, batch_size: int) -> Candidate:
    """The candidate with inputs of the shapes asked for; the others are repeated to the batch size.

    **Raises:** `UsageError` for another number of axes than the input has.
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
        if shape is not None and len(shape) != len(have[name]):
            raise UsageError(
                f"--input gives {name or 'the input'} of {candidate.label} the shape {sizes(shape)}, and it has "
                f"{len(have[name])} axes ({sizes(have[name])}): give as many sizes."
            )
        fixed = candidate.fixed.get(name, ())
        if shape is not None and any(size not in (None, given) for given, size in zip(shape, fixed)):
            raise UsageError(
                f"--input gives {name} of {candidate.label} the shape {sizes(shape)}, and the file takes only "
                f"{sizes('any' if size is None else size for size in fixed)}."
            )

    def fitted(name: str, tensor: Tensor) -> Tensor:
        shape = wanted[name]
        if shape is None:
            shape = (tensor.shape[0] * batch_size, *tensor.shape[1:]) if tensor.dim() else ()
        # The example's own numbers over and over: token numbers stay within the vocabulary.
        return tensor if shape == tensor.shape else torch.from_numpy(np.resize(tensor.numpy(), shape))

    inputs = _filled(candidate.model, candidate.inputs, fitted)
    return replace(
        candidate, inputs=inputs, shapes={name: tuple(t.shape) for name, t in _named(candidate.model, inputs)}
    )


def _refuse_unknown(asked: Shapes, candidates: Sequence[Candidate]) -> None:
    """**Raises:** `UsageError` for a shape of an input that no candidate has."""
    names = list(dict.fromkeys(name for candidate in candidates for name in candidate.shapes))
    for name in asked:
        if name and name not in names:
            near = nearest(name, names)
            hint = f"did you mean {near}? " if near else ""
            raise UsageError(f"--input names {name!r}, which is no input: {hint}there are {', '.join(names)}.")


def _named(model: Path | nn.Module, inputs: Any) -> list[tuple[str, Tensor]]:
    """The tensors among example inputs, by the names that an exported file gives them."""
    found: list[tuple[str, Tensor]] = []

    def note(name: str, tensor: Tensor) -> Tensor:
        found.append((name, tensor))
        return tensor

    _filled(model, inputs, note)
    return found


def _filled(model: Path | nn.Module, inputs: Any, function: Any) -> Any:
    """The same example inputs with `function(name, tensor)` in place of each tensor."""

    def walk(value: Any, name: str) -> Any:
        if isinstance(value, Tensor):
            return function(name, value)
        if isinstance(value, Mapping):
            return {key: walk(item, f"{name}_{key}" if name else str(key)) for key, item in value.items()}
        if type(value) in (tuple, list):
            return type(value)(walk(item, f"{name}_{index}") for index, item in enumerate(value))
        return value

    if isinstance(inputs, Tensor):
        return walk(inputs, next(_parameters(model)))
    if isinstance(inputs, (tuple, list)):
        return type(inputs)(walk(item, name) for name, item in zip(_parameters(model), inputs))
    return walk(inputs, "")


def _parameters(model: Path | nn.Module) -> Iterator[str]:
    """The names of forward's parameters in order; where they end, in `*args` or in a file, numbers."""
    forward = inspect.signature(model.forward).parameters.values() if not isinstance(model, Path) else ()
    named = [p.name for p in forward if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    yield from named
    at = len(named)
    while True:
        yield str(at)
        at += 1


def file_inputs(path: Path) -> tuple[Tensor, ...]:
    """Random inputs of the shapes that an exported file takes; sizes that it leaves open are 1.

    **Raises:** `PodarError` for a file that its runtime cannot open.
    """
    return tuple(_file(path.name, path).inputs.values())
