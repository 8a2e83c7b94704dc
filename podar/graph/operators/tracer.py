"""What rules are given: the labels of tensors to read, and ways to say which axes go together, stay, or cost."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from typing import Any

import numpy as np
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators.marks import Bits, Mark, Marks, is_parameter
from podar.graph.operators.register import Operator, passes
from podar.graph.record import Block, Blocks, Form, Product, Record
from podar.graph.sizes import Size

INPUTS = "the inputs of the model"
"""Beside the names of parameters: what a value may hang on."""

Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


class Tracer:
    """One trace, as the rule of an operator sees it.

    **Attributes:**

    - `record`: what the trace has written down; `labels` and `sizes` are those of the record.
    - `operator`: the operator of the moment.
    - `call`: the call of Python's that led to it, (function, args, kwargs), with sizes that remember; None where there
      is none, or where it is a whole call itself.
    - `module`: the name of the module that runs.
    """

    def __init__(self, record: Record, marks: Marks, stack: list[str]) -> None:
        """`stack`: names of the modules that run, the innermost one last."""
        self.record, self.labels, self.sizes = record, record.labels, record.sizes
        self.operator = Operator("")
        self.call: Call | None = None
        self.mark: Callable[[Tensor], Mark] = marks.of
        self.bits = Bits()
        self.given = self.bits.add(INPUTS)
        self.knows_inputs = False
        self.met = 0  # the bits of parameters that operators were given
        self._marks, self._stack = marks, stack
        self._factored: dict[int, tuple[Ids, list[Ids]]] = {}
        self._fixed: dict[int, tuple[Ids, tuple[bool, ...]]] = {}
        self._derived: dict[Any, tuple[Ids, Ids]] = {}
        self.sizes.place = lambda: self._stack[-1] or "the model's forward"

    def begin(self, tensors: dict[str, Tensor], shared: Container[int]) -> None:
        """Give every parameter and buffer its mark: nearly all will be asked for it.

        **Arguments:**

        - `tensors`: by name.
        - `shared`: ids of those that may not carry their mark themselves, since they are the user's.
        """
        for key, name in reversed(self._marks.named.items()):  # in the order of the model
            tensor, mark = tensors[name], Mark(zero=True)
            mark.fresh = True
            if is_parameter(tensor):
                mark.hollow, mark.makers, mark.needs = True, (name,), self.bits.add(name)
            self._marks.attach(tensor, mark, own=key not in shared)

    def finish(self) -> None:
        """Write down what was met."""
        self.record.met.update([name for name, bit in self.bits.of.items() if bit & self.met])
        self.sizes.place = str

    # What rules read

    @property
    def module(self) -> str:
        return self._stack[-1]

    @property
    def where(self) -> str:
        """The operator and module of the moment, for reasons that users read."""
        return f"{self.operator.name} in {self.module}" if self.module else self.operator.name

    def is_known(self, tensor: Tensor) -> bool:
        """Whether the run was given this tensor, or has made it."""
        return self._marks.known(tensor) is not None or id(tensor) in self._marks.named

    def name(self, tensor: Tensor) -> str | None:
        """The name of a parameter or buffer."""
        return self._marks.named.get(id(tensor))

    def layout(self, name: str, dim: int, size: int) -> Ids:
        """Labels along one dimension of a parameter: atoms of its own, unless it has labels there."""
        dims = self.record.layouts.setdefault(name, {})
        if dim not in dims:
            dims[dim] = self.labels.fresh(size)
        elif dims[dim].ndim == 2:
            # A grouped convolution used this weight before: here every group has the same index.
            shared = self.labels.fresh(size)
            self.labels.equal(dims[dim], np.broadcast_to(shared, dims[dim].shape))
            return shared
        return dims[dim]

    def blocks(self, tensor: Tensor) -> Blocks:
        """Labels of a tensor; parameters and buffers get atoms on every axis when they are first looked at."""
        mark = self.mark(tensor)
        if mark.fresh:
            name = self._marks.named[id(tensor)]
            mark.fresh = False
            mark.blocks = tuple(((d,), self.layout(name, d, n)) for d, n in enumerate(tensor.shape) if n > 1)
        return mark.blocks

    def labelled(self, *tensors: Any) -> bool:
        """Whether any of them has labels."""
        return any(isinstance(t, Tensor) and self.mark(t).blocks for t in tensors)

    def axis(self, tensor: Tensor, dim: int) -> Ids | None:
        """Labels along one dimension (a joint block is factored first), or None where nothing may go there."""
        dim %= tensor.dim()
        for dims, ids in self.blocks(tensor):
            if dim in dims:
                if len(dims) > 1:
                    self.split(tensor, dims)
                    return self.axis(tensor, dim)
                return ids
        return None

    def zero(self, *args: Any) -> bool:
        """Whether a removed index of these arguments is zero in the result, by the operator's declaration."""
        return passes(
            self.operator.zero,
            [
                self.mark(a).zero if isinstance(a, Tensor) else a == 0 if isinstance(a, (int, float)) else None
                for a in args
            ],
        )

    def is_computed_weight(self, mark: Mark) -> bool:
        """Whether a value depends on parameters alone, as a standardised weight does."""
        return not mark.needs & self.given if self.knows_inputs else mark.storage < 0

    def uniform(self, tensor: Tensor, dim: int) -> bool:
        """Whether a constant has the same values at every index of `dim`."""
        if self.mark(tensor).hollow:
            return False
        return bool((tensor == tensor.narrow(dim, 0, 1)).all())

    # Joint blocks, and arrays made of others

    def split(self, tensor: Tensor, dims: tuple[int, ...]) -> None:
        """Factor the joint block over `dims` into one block a dimension."""
        blocks: list[Block] = []
        for block in self.blocks(tensor):
            blocks += self.factors(block) if block[0] == dims else [block]
        self.mark(tensor).blocks = tuple(sorted(blocks, key=lambda b: b[0]))

    def factors(self, block: Block) -> list[Block]:
        """A joint block as one block a dimension; the same array is factored once."""
        dims, ids = block
        if len(dims) == 1:
            return [block]
        if id(ids) not in self._factored:
            fixed = self._fixed.get(id(ids))
            self._factored[id(ids)] = (ids, self.labels.factor(ids, None if fixed is None else fixed[1]))
        return [((d,), a) for d, a in zip(dims, self._factored[id(ids)][1]) if a.any()]

    def fix(self, ids: Ids, axes: tuple[bool, ...]) -> None:
        """A literal decides the size of these axes of a joint block, so they get no atoms when it is factored."""
        self._fixed[id(ids)] = (ids, axes)

    def fixed(self, ids: Ids) -> tuple[bool, ...]:
        """For each axis of an array whether a literal decides its size."""
        known = self._fixed.get(id(ids))
        return (False,) * ids.ndim if known is None else known[1]

    def derived(self, ids: Ids, how: Any, make: Callable[[], Ids], axes: tuple[bool, ...] = ()) -> Ids:
        """An array made of another one: the same one each time, so that what is factored once is not factored again.

        **Arguments:**

        - `how`: tells what is made of `ids` (rows 3 to 5, say).
        - `make`: makes it.
        - `axes`: which of its axes are fixed.
        """
        key = (id(ids), how)
        if key not in self._derived:
            made = make()
            self._derived[key] = (ids, made)
            if axes:
                self.fix(made, axes)
        return self._derived[key][1]

    # What rules write

    def put(self, tensor: Tensor, blocks: Blocks, zero: bool = False) -> None:
        """Give a result its labels, and say whether a removed index is exactly zero in it."""
        mark = self.mark(tensor)
        mark.blocks, mark.zero, mark.fresh = blocks, zero, False

    def equal(self, a: Ids | None, b: Ids | None) -> None:
        """Two axes meet: unify them; where one side has no labels the other one cannot change."""
        if a is not None and b is not None:
            self.labels.equal(a, b)
        elif a is not None or b is not None:
            self.freeze(a if a is not None else b, "meets an axis of fixed size at")

    def meet(self, ids: Ids | None, tensor: Tensor, dim: int) -> None:
        """An axis of activations meets one of a parameter: one never looked at before simply takes the same labels."""
        mark = self.mark(tensor)
        if ids is not None and mark.fresh and tensor.shape[dim] == len(ids) > 1:
            own = self.record.layouts.setdefault(self._marks.named[id(tensor)], {}).setdefault(dim, ids)
            if own is ids and tensor.dim() == 1:
                mark.blocks, mark.fresh = (((0,), ids),), False
                return
        self.equal(ids, self.axis(tensor, dim))

    def freeze(self, ids: Ids | None, why: str) -> None:
        """Nothing of an axis may go; operator and module are added to the reason."""
        if ids is not None:
            self.labels.freeze(ids, f"{why} {self.where}")

    def freeze_from(self, tensor: Tensor, first: int, why: str) -> None:
        """Freeze dimension `first` and those after it."""
        if [d for dims, _ in self.blocks(tensor) for d in dims if d >= first]:
            for d in range(first, tensor.dim()):
                self.freeze(self.axis(tensor, d), why)

    def freeze_all(self, tensor: Any, why: str) -> None:
        """Freeze every axis of a tensor; anything else is left alone."""
        if isinstance(tensor, Tensor):
            for _, ids in self.blocks(tensor):
                self.freeze(ids, why)

    def used_as_numbers(self, sizes: Iterable[Size], name: str) -> None:
        """Sizes that reached a value, or that no rule follows where they went: they must stay."""
        for size in sizes:
            if size.owner is self.sizes:
                own = name.strip("_")
                self.sizes.number(size.expr, size, f"{own} in {self.module}" if self.module else own)

    def balanced(self, ids: Ids, parts: int) -> None:
        """An axis of `parts` equal parts: each must lose equally many."""
        if parts > 1:
            self.sizes.grid(ids.reshape(parts, -1), (parts, None), self.where)

    def macs(self, count: int, *axes: Ids | None, form: Form | None = None) -> None:
        """Multiply-accumulates, in proportion to these axes (None: to nothing)."""
        counted, step = tuple(a for a in axes if a is not None), len(self.record.steps)
        self.record.products.append(Product(self.module, int(count), counted, step, form))
