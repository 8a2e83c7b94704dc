"""Plan: which slices of which tensors go, and what else changes with them. Plain data, JSON in and out."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic_core import to_json  # it takes a quarter of the time that json takes

from podar.errors import PodarError
from podar.files import write_atomic
from podar.plans.checks import check
from podar.trust.plain import JSON_BYTES, Unreadable, loads_json, read_bytes

VERSION = 1

_Value = TypeVar("_Value")


class Indices(tuple[int, ...]):
    """A tuple of indices that keeps the same indices as an array, because long tuples take a while to convert."""

    @staticmethod
    def of(array: NDArray[np.int64]) -> Indices:
        found = Indices(array.tolist())
        found.array = array
        return found

    @cached_property
    def array(self) -> NDArray[np.int64]:
        """The same indices."""
        return np.array(self, dtype=np.int64)


class Cut(NamedTuple):
    """Indices that go from one dimension of one tensor.

    **Attributes:**

    - `dim`: the dimension.
    - `removed`: indices, ascending. With `groups` > 1 (the weight of a grouped convolution, dim 1) index `i` counts
      through the input channels of all groups: it is position `i % (size // groups)` in group `i // …`.
    - `size`: length of the axis before, over all groups.
    - `groups`: parts of dim 0 that may lose different positions, equally many each.
    """

    dim: int
    removed: tuple[int, ...]
    size: int
    groups: int = 1

    @property
    def array(self) -> NDArray[np.int64]:
        """`removed` as an array."""
        return self.removed.array if isinstance(self.removed, Indices) else np.array(self.removed, dtype=np.int64)


class Rescale(NamedTuple):
    """Values at `indices` of `dim` are multiplied by `factor`, since a width that the model divides by has changed."""

    indices: tuple[int, ...]
    factor: float
    dim: int = 0


class Computed(NamedTuple):
    """A weight that its module computes from the one that is cut, and the tensors by which surgery keeps its values.

    **Attributes:**

    - `kind`: "length" for g · v / |v| (weight norm), "spectral" for w / (u · w v).
    - `partners`: the name of g, or the names of u and v.
    - `dim`: each index of this dimension has a length of its own, or is a row of the matrix; −1: one length for all.
    """

    kind: str
    partners: tuple[str, ...]
    dim: int


@dataclass(frozen=True)
class Plan:
    """What to remove from a model. Made by `podar.plan`, carried out by `podar.apply` or `podar.mask`.

    **Attributes:**

    - `cuts`: for each parameter or buffer (under every tied name) its cuts.
    - `attributes`: new values by module and attribute; a key `name[2]` is an element of a tuple or list.
    - `rescales`: rows to multiply once the cuts are made.
    - `shapes`: shapes of the tensors cut, as the plan expects to find them.
    - `skips`: modules that are skipped, with whether each gives zeros instead of its input, and the items of the tuple
      that it returns (0 for a tensor). Tensors in `shapes` under them go as a whole.
    - `earlier`: plans already carried out before this one, oldest first.
    - `computed`: parameters that others make a weight of, by name: weight norm, spectral norm.

    ```python
    plan = podar.plan(graph, "channels=0.5")
    plan.save("plan.json"); podar.apply(model, podar.Plan.load("plan.json"))
    ```
    """

    cuts: Mapping[str, tuple[Cut, ...]] = field(default_factory=dict)
    attributes: Mapping[str, Mapping[str, int | float]] = field(default_factory=dict)
    rescales: Mapping[str, tuple[Rescale, ...]] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    earlier: tuple[Plan, ...] = ()
    skips: Mapping[str, tuple[bool, int]] = field(default_factory=dict)
    computed: Mapping[str, Computed] = field(default_factory=dict)

    def __add__(self, later: Plan) -> Plan:
        """This plan, then `later`, which was made for the model that this one leaves."""
        if not isinstance(later, Plan):
            return NotImplemented
        steps = (*self.steps, *later.steps)
        last = steps[-1]
        return replace(last, earlier=steps[:-1])

    @property
    def steps(self) -> tuple[Plan, ...]:
        """The plans to carry out one after the other; the last is this one without its predecessors."""
        return (*self.earlier, replace(self, earlier=()))

    def __bool__(self) -> bool:
        return bool(self.cuts or self.skips or self.earlier)

    def dropped(self) -> dict[str, tuple[int, ...]]:
        """Tensors that go as a whole, in this step and earlier ones, with their shapes."""
        return {
            name: shape
            for step in self.steps
            for name, shape in step.shapes.items()
            if any(name.startswith(module + ".") for module in step.skips)
        }

    def renamed(self, tensor: Callable[[str], str | None], module: Callable[[str], str]) -> Plan:
        """The same plan under other names of tensors and modules; tensors whose name becomes None are left out.

        Plans carried out before it keep theirs.
        """

        def tensors(given: Mapping[str, _Value]) -> dict[str, _Value]:
            return {new: value for name, value in given.items() if (new := tensor(name)) is not None}

        made: dict[str, Computed] = {}
        for name, computed in tensors(self.computed).items():
            partners = tuple(new for partner in computed.partners if (new := tensor(partner)) is not None)
            if len(partners) == len(computed.partners):  # a partner without a name: the weight is plain there
                made[name] = computed._replace(partners=partners)
        return replace(
            self,
            cuts=tensors(self.cuts),
            attributes={module(name): values for name, values in self.attributes.items()},
            rescales=tensors(self.rescales),
            shapes=tensors(self.shapes),
            skips={module(name): form for name, form in self.skips.items()},
            computed=made,
        )

    def to_json(self) -> str:
        """The plan as one JSON object. Lists of indices that several tensors share are written once."""
        sets: dict[tuple[int, ...], int] = {}
        steps = [_encode(step, sets) for step in self.steps]
        return to_json({"podar_plan": VERSION, "sets": list(sets), "steps": steps}).decode()

    @staticmethod
    def from_json(text: str) -> Plan:
        """Read what `to_json` wrote.

        **Raises:** `PodarError`: the text is not a plan, or one of a newer format.
        """
        try:
            data = loads_json(text)
        except Unreadable as error:
            raise PodarError(f"this is not a podar plan: {error}.") from error
        version = data.get("podar_plan") if isinstance(data, dict) else None
        if version is None:
            raise PodarError("this is not a podar plan: a JSON object with the key 'podar_plan' is needed.")
        if version != VERSION:
            told = f"this plan has format {str(version)[:40]}, this podar reads {VERSION}"
            raise PodarError(f"{told}; install the podar that wrote it.")
        try:
            check(data)
        except Unreadable as error:
            raise PodarError(f"this plan is damaged ({error}); save it again.") from error
        sets = [Indices(indices) for indices in data["sets"]]
        *earlier, last = [_decode(step, sets) for step in data["steps"]]
        return replace(last, earlier=tuple(earlier))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan as JSON, whole or not at all."""
        write_atomic(path, self.to_json())

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Plan:
        """Read a plan that `save` wrote.

        **Raises:**

        - `FileNotFoundError`: no such file.
        - `PodarError`: the file is not a plan.
        """
        try:
            text = read_bytes(Path(path), JSON_BYTES).decode()
        except UnicodeDecodeError as error:
            raise PodarError(f"{path} is not a podar plan: it is not text.") from error
        except Unreadable as error:
            raise PodarError(f"{path} is not a podar plan: {error}.") from error
        try:
            return Plan.from_json(text)
        except PodarError as error:
            raise PodarError(f"{path}: {error}") from error


def _encode(plan: Plan, sets: dict[tuple[int, ...], int]) -> dict[str, Any]:
    known: dict[int, int] = {}  # tensors share lists, which are told apart by identity: long tuples are slow to hash

    def index(removed: tuple[int, ...]) -> int:
        if id(removed) not in known:
            known[id(removed)] = sets.setdefault(removed, len(sets))
        return known[id(removed)]

    return {
        "cuts": {n: [[c.dim, index(c.removed), c.size, c.groups] for c in cuts] for n, cuts in plan.cuts.items()},
        "attributes": {m: dict(values) for m, values in plan.attributes.items()},
        "rescales": {n: [[index(r.indices), r.factor, r.dim] for r in rs] for n, rs in plan.rescales.items()},
        "shapes": {n: list(s) for n, s in plan.shapes.items()},
        "skips": {m: list(form) for m, form in plan.skips.items()},
        "computed": {n: [c.kind, list(c.partners), c.dim] for n, c in plan.computed.items()},
    }


def _decode(data: dict[str, Any], sets: Sequence[tuple[int, ...]]) -> Plan:
    return Plan(
        cuts={n: tuple(Cut(d, sets[s], size, g) for d, s, size, g in cuts) for n, cuts in data["cuts"].items()},
        attributes={m: dict(values) for m, values in data["attributes"].items()},
        rescales={n: tuple(Rescale(sets[s], *rest) for s, *rest in rs) for n, rs in data["rescales"].items()},
        shapes={n: tuple(s) for n, s in data["shapes"].items()},
        skips={m: (bool(zeros), int(items)) for m, (zeros, items) in data.get("skips", {}).items()},
        computed={n: Computed(kind, tuple(own), dim) for n, (kind, own, dim) in data.get("computed", {}).items()},
    )
