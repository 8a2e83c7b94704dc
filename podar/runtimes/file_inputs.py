"""Example inputs matched with what a model file wants, as numpy arrays; it imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from podar.errors import PodarError, UsageError, sizes
from podar.model.containers import leaves, name_of
from podar.runtimes.session import Port


def arrays(inputs: Any, *, widened: bool = False) -> dict[str, np.ndarray]:
    """Every tensor or array of the inputs by its path ("" for a lone one, "0", "input_ids", "boxes.1").

    `widened`: bfloat16, which numpy does not have, comes as float32.

    **Raises:** `UsageError` for a callable; `PodarError` for a tensor of a type that numpy does not have.
    """
    found = {}
    for place, leaf in leaves(inputs):
        path = ".".join(map(str, place))
        if isinstance(leaf, np.ndarray):
            found[path] = leaf
        elif hasattr(leaf, "detach"):  # a tensor of torch, which is not imported here
            found[path] = _array(leaf, path, widened)
        elif callable(leaf):
            raise UsageError("a model file takes tensors: give a tensor, a tuple or a dict instead of a callable.")
    return found


def _array(tensor: Any, path: str, widened: bool) -> np.ndarray:
    try:
        held = tensor.detach().cpu()
        return (held.float() if widened and str(held.dtype) == "torch.bfloat16" else held).numpy()
    except (TypeError, NotImplementedError) as error:  # bfloat16; a tensor without data
        raise PodarError(f"the input {path or 'tensor'} cannot be given to a runtime: {error}.") from error


def matched(file: str | Path, wanted: Sequence[Port], inputs: Any, *, advice: str = "") -> dict[str, np.ndarray]:
    """The inputs by the names of the file's, contiguous: by name where all names agree, else in order.

    A file whose own names are only places ("0", "1") takes them in order, however they are called.

    `advice`: ends the sentence where an input does not fit, e.g. `"; resize it"`.

    **Raises:** `PodarError` for another number of inputs, names that are not the file's, another shape or type; what
    `arrays` raises.
    """
    given = arrays(inputs, widened=any(port.dtype == "bfloat16" for port in wanted))
    by_name = {name_of((path,)): value for path, value in given.items()}
    names = [entry.name for entry in wanted]
    if not set(names) <= set(by_name):
        if len(given) != len(names):
            raise PodarError(
                f"{file} takes {len(names)} input{'s' if len(names) != 1 else ''} ({', '.join(names)}), "
                f"but {len(given)} {'were' if len(given) != 1 else 'was'} given."
            )
        if len(names) > 1 and not all(map(_is_place, names)) and not all(map(_is_place, given)):
            raise PodarError(f"{file} takes the inputs {', '.join(names)}, but {', '.join(given)} were given.")
        by_name = dict(zip(names, given.values()))
    for entry in wanted:
        value = by_name[entry.name]
        fits = len(entry.shape) == value.ndim and all(n in (None, m) for n, m in zip(entry.shape, value.shape))
        if not fits or value.dtype != entry.array_type:
            raise PodarError(
                f"the input given does not fit {file}: its input {entry.name} is {entry}, "
                f"the one given is {sizes(value.shape)} {value.dtype}{advice}."
            )
    return {name: np.ascontiguousarray(by_name[name]).reshape(by_name[name].shape) for name in names}


def _is_place(path: str) -> bool:
    return path.replace(".", "").isdigit()


def random_inputs(wanted: Sequence[Port]) -> dict[str, np.ndarray]:
    """Inputs to measure a file with: normal numbers, ones where they are whole; sizes that are open are 1."""
    random = np.random.default_rng(0)
    found = {}
    for entry in wanted:
        shape = [1 if size is None else size for size in entry.shape]
        kind = entry.array_type
        numbers = random.standard_normal(shape) if kind.kind == "f" else np.ones(shape)
        found[entry.name] = np.asarray(numbers, kind)
    return found
