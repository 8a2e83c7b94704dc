"""Which second moments are held at once: maps in parts that fit into memory, with one pass over the inputs a part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from podar.compensation.forms import Form
from podar.compensation.readings import Parameters


def bytes_of(names: Iterable[str], forms: Mapping[str, Form], parameters: Parameters) -> int:
    """How many bytes the second moments of maps take, with their inverses and one copy.

    **Arguments:**

    - `names`: the parameters of the maps. `forms`: how each is read, by its name.
    """
    matrices = (forms[name].matrix(parameters.members.tensors[name]) for name in names)
    return sum(matrix.shape[0] * matrix.shape[-1] ** 2 * 8 * 3 for matrix in matrices)


def parts(
    wanted: Mapping[int, Iterable[str]], forms: Mapping[str, Form], parameters: Parameters, memory: int
) -> Iterator[tuple[list[int], set[str]]]:
    """The keys of `wanted` in parts whose maps' second moments fit into memory together, and the maps of each part.

    A key whose maps need more alone is a part of its own.
    """
    part: list[int] = []
    held: set[str] = set()
    for key, names in wanted.items():
        both = held | set(names)
        if part and bytes_of(both, forms, parameters) > memory:
            yield part, held
            part, both = [], set(names)
        part.append(key)
        held = both
    if part:
        yield part, held
