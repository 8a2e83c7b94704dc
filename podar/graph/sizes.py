"""The int that remembers: which module attribute, or which axis, a size comes from, and what was sized by it.

`podar.graph.equations` solves what is collected here.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import copy
import functools
import operator
from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import nn

from podar.graph.labels import Ids
from podar.model.members import EVERY

TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, *TRANSPOSED)

REPEATED = frozenset(
    ("out_channels", "in_channels", "out_features", "in_features", "embedding_dim", "num_features", "num_channels")
)
"""Attributes of torch.nn's own modules that repeat a parameter's shape (`podar.graph.mirrors`)."""


class Attribute(NamedTuple):
    """An int attribute of a module; `at` is its place when the attribute is a tuple or list.

    A dot in `name` leads into a settings object that the module holds: `config.num_heads`.
    """

    module: str
    name: str
    at: int | None = None

    def __str__(self) -> str:
        path = f"{self.module}.{self.name}" if self.module else self.name
        return path if self.at is None else f"{path}[{self.at}]"


@dataclass(frozen=True, eq=False)
class Axis:
    """The size of axis `axis` of a block of labels."""

    ids: Ids
    axis: int = 0

    def __str__(self) -> str:
        return f"the size {self.ids.shape[self.axis]} of another axis"


@dataclass(frozen=True, eq=False)
class Term:
    """Two expressions joined by an operator."""

    symbol: str
    left: Expr
    right: Expr

    def __str__(self) -> str:
        return f"({self.left} {self.symbol} {self.right})"


Expr = int | Attribute | Axis | Term

OPERATIONS: dict[str, Callable[[Any, Any], int]] = {
    "+": operator.add,
    "-": operator.sub,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
}


SEQUENCES = (tuple, list, torch.Size)
"""Attributes of these types are looked through for sizes; a forward pass may have cached one of its shapes."""


PLAIN = {bool, float, str, dict, OrderedDict, set, type(None)}
"""Types that are no settings objects, known at a glance: a module holds a dozen of them."""


def holds_settings(value: Any) -> bool:
    """Whether an attribute is a plain object that holds options of the model (a config, a namespace, a dataclass)."""
    kind = type(value)
    if callable(value) or isinstance(value, (torch.Tensor, Enum, type, dict, set)) or not hasattr(value, "__dict__"):
        return False
    return kind.__module__.partition(".")[0] not in ("torch", "numpy", "builtins", "weakref")


class Size(int):
    """An int that remembers its expression through arithmetic; everything else sees a plain int.

    `owner` is the trace that made it: one kept by a cache from an earlier trace counts as a literal.
    """

    expr: Expr
    owner: Provenance
    weight: int  # how many sizes and literals its expression has

    def __new__(cls, value: int, expr: Expr, owner: Provenance, weight: int = 1) -> Size:
        self = super().__new__(cls, value)
        self.expr = expr
        self.owner = owner
        self.weight = weight
        return self

    def __eq__(self, other: object) -> bool:
        same = int.__eq__(self, other)  # type: ignore[operator]
        if same is True and type(other) is Size:
            self.owner.equalities.append((self.expr, other.expr, f"a comparison in {self.owner.place()}"))
        elif same is False and type(other) is Size:
            self.owner.differences.append((self, other))
        return same

    def __ne__(self, other: object) -> bool:
        return not self == other

    # A formula that turns a size into a float (1 / √d, a mean) has forgotten where it came from: the size must stay.

    def forgotten(self) -> int:
        """The plain int, for what cannot remember: the size must stay."""
        self.owner.formula(self)
        return int.__int__(self)

    def __int__(self) -> int:
        return self.forgotten()

    def __float__(self) -> float:
        return float(self.forgotten())

    def __truediv__(self, other: float) -> Any:
        return operator.truediv(self.forgotten(), other) if _is_number(other) else NotImplemented

    def __rtruediv__(self, other: float) -> Any:
        return operator.truediv(other, self.forgotten()) if _is_number(other) else NotImplemented

    def __pow__(self, other: Any, modulo: Any = None) -> Any:
        if type(other) is int and 1 <= other <= 4 and modulo is None:
            return functools.reduce(operator.mul, [self] * other)
        return pow(self.forgotten(), other, modulo) if _is_number(other) else NotImplemented

    def __rpow__(self, other: Any, modulo: Any = None) -> Any:
        return pow(other, self.forgotten(), modulo) if _is_number(other) else NotImplemented

    def __divmod__(self, other: Any) -> Any:
        return self // other, self % other

    def __rdivmod__(self, other: Any) -> Any:
        return other // self, other % self

    def __lshift__(self, other: Any) -> Any:
        return self * (1 << other) if type(other) is int else int.__int__(self) << other

    def __rshift__(self, other: Any) -> Any:
        return self // (1 << other) if type(other) is int else int.__int__(self) >> other

    def __neg__(self) -> Any:
        return 0 - self

    def __pos__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self if int.__int__(self) >= 0 else 0 - self

    def __round__(self, digits: Any = None) -> Any:
        return self if digits is None or digits >= 0 else round(self.forgotten(), digits)

    def item(self) -> Any:
        """As numpy's numbers have it: its product of a shape is one of these."""
        return self

    __trunc__ = __floor__ = __ceil__ = __pos__

    __hash__ = int.__hash__

    def __deepcopy__(self, memo: object) -> int:
        return int.__int__(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return int, (int.__int__(self),)


LONGEST = 200
"""Sizes and literals in one expression: a loop can double one in each round, and every reader walks through it."""


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float, complex, np.number))


def _arithmetic(symbol: str, name: str) -> None:
    compute = OPERATIONS[symbol]

    def joined(left: Any, right: Any) -> int:
        one = left if isinstance(left, Size) else right
        exprs, weight = [], 0
        for side in (left, right):
            known = isinstance(side, Size)
            exprs.append(side.expr if known else int.__int__(side))
            weight += side.weight if known else 1
        if weight > LONGEST:
            return compute(*(side.forgotten() if isinstance(side, Size) else side for side in (left, right)))
        value = compute(int.__int__(left), int.__int__(right))
        return Size(value, Term(symbol, *exprs), one.owner, weight)

    def forward(self: Size, other: object) -> Any:
        if isinstance(other, int):
            return joined(self, other)
        return compute(self.forgotten(), other) if isinstance(other, (float, complex, np.floating)) else NotImplemented

    def reflected(self: Size, other: object) -> Any:
        return joined(other, self) if isinstance(other, int) else NotImplemented

    setattr(Size, f"__{name}__", forward)
    setattr(Size, f"__r{name}__", reflected)


def _bits(name: str) -> None:
    compute = getattr(int, name)

    def forgetting(self: Size, other: Any) -> Any:
        return compute(self.forgotten(), int.__int__(other)) if isinstance(other, int) else NotImplemented

    setattr(Size, name, forgetting)


for _symbol, _name in (("+", "add"), ("-", "sub"), ("*", "mul"), ("//", "floordiv"), ("%", "mod")):
    _arithmetic(_symbol, _name)
for _name in ("and", "or", "xor"):
    _bits(f"__{_name}__")
    _bits(f"__r{_name}__")


@dataclass(frozen=True, eq=False)
class Grid:
    """A block of labels that must stay a block: equal counts along every axis, each sized by its expression.

    `exprs[k]` is None where the size follows by itself (a −1, or computed by torch from the shape).
    """

    ids: Ids
    exprs: tuple[Expr | None, ...]
    where: str


@dataclass(frozen=True, eq=False)
class Equality:
    """Two expressions that the model compared and found equal; they must stay so."""

    left: Expr
    right: Expr
    where: str


@dataclass(frozen=True, eq=False)
class Number(Equality):
    """An expression whose value the model computes with: it must stay that number."""


Constraint = Grid | Equality


class Provenance:
    """Replaces a model's int attributes by `Size` and collects what was sized by them."""

    def __init__(self) -> None:
        self.dense: dict[Attribute, int] = {}  # every attribute that was replaced, and its value
        self.constraints: list[Constraint] = []
        self.equalities: list[tuple[Expr, Expr, str]] = []
        self.differences: list[tuple[Size, Size]] = []
        self.numbers: dict[object, Number] = {}  # sizes that reached a value, each once
        self.understood: set[int] = set()  # by `id`: sizes of the call under way that a rule turned into constraints
        self.place: Callable[[], str] = str

    def attach(self, modules: Iterable[tuple[str, Any]]) -> None:
        """Replace ints, and ints in tuples and lists, in every module's `__dict__` (the caller restores them)."""
        for name, module in modules:
            self._remembering(name, module.__dict__, "", isinstance(module, CONVOLUTIONS))

    def _remembering(self, module: str, attributes: dict[str, Any], path: str, filters: bool = False) -> None:
        """`filters`: tuples of convolutions count kernel positions, which never go."""
        for key in [k for k in attributes if k not in EVERY]:
            value = attributes[key]
            kind = type(value)
            if kind in PLAIN:
                continue
            if kind is int:
                attributes[key] = self.size(value, Attribute(module, path + key))
            elif kind in SEQUENCES:
                if not filters and any(type(v) is int for v in value):
                    attributes[key] = kind(
                        self.size(v, Attribute(module, path + key, i)) if type(v) is int else v
                        for i, v in enumerate(value)
                    )
            elif path.count(".") < 2 and holds_settings(value):
                # A copy of the module's own: others may hold the same object.
                attributes[key] = own = copy.copy(value)
                self._remembering(module, own.__dict__, f"{path}{key}.")

    def size(self, value: int, attribute: Attribute) -> Size:
        self.dense[attribute] = value
        return Size(value, attribute, self)

    def expr(self, value: int) -> Expr:
        """The expression behind an int: a `Size` of this trace, or a literal. Who asks makes a constraint of it."""
        if isinstance(value, Size) and value.owner is self:
            self.understood.add(id(value))
            return value.expr
        return int.__int__(value)

    def formula(self, size: Size) -> None:
        """A size went into a floating-point formula."""
        self.equalities.append((size.expr, int.__int__(size), f"a formula in {self.place()}"))

    def number(self, expr: Expr, value: int, where: str) -> None:
        """A size reached a value, or decides what no rule follows: it must stay."""
        key = expr if isinstance(expr, Attribute) else _key(expr)
        if not isinstance(expr, int) and key not in self.numbers:
            self.numbers[key] = Number(expr, int.__int__(value), where)

    def grid(self, ids: Ids, exprs: Iterable[Expr | None], where: str) -> None:
        self.constraints.append(Grid(ids, tuple(exprs), where))

    def finish(self) -> None:
        """Turn comparisons of sizes into constraints, each once, and sizes that were used as numbers.

        Most attributes size nothing that can go: as numbers they are left out.
        """
        seen: set[tuple[str, str]] = set()
        for left, right, where in self.equalities:
            if isinstance(left, Attribute) and left == right:
                continue
            key = (_key(left), _key(right))
            if key not in seen:
                seen.add(key)
                self.constraints.append((Number if isinstance(right, int) else Equality)(left, right, where))
        sizing = set[Attribute]().union(*(attributes_in(c) for c in self.constraints))
        sizing.update(*(attributes_of(size.expr) for pair in self.differences for size in pair))
        for number in self.numbers.values():
            names = attributes_of(number.left)
            if axes_in(number.left) or not sizing.isdisjoint(names) or any(a.name in REPEATED for a in names):
                self.constraints.append(number)


def _key(expr: Expr) -> str:
    """Text that two expressions share only where they mean the same axes and attributes."""
    if isinstance(expr, Term):
        return f"({_key(expr.left)}{expr.symbol}{_key(expr.right)})"
    return f"axis {id(expr.ids)} {expr.axis}" if isinstance(expr, Axis) else repr(expr)


def attributes_of(expr: Expr | None) -> set[Attribute]:
    """The module attributes in an expression."""
    if isinstance(expr, Term):
        return attributes_of(expr.left) | attributes_of(expr.right)
    return {expr} if isinstance(expr, Attribute) else set()


def attributes_in(constraint: Constraint) -> set[Attribute]:
    """The module attributes in all expressions of a constraint."""
    exprs = constraint.exprs if isinstance(constraint, Grid) else (constraint.left, constraint.right)
    return set[Attribute]().union(*(attributes_of(e) for e in exprs))


def axes_in(expr: Expr | None) -> list[Axis]:
    """The axes whose sizes are in an expression."""
    if isinstance(expr, Term):
        return axes_in(expr.left) + axes_in(expr.right)
    return [expr] if isinstance(expr, Axis) else []
