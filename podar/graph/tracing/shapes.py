"""Shapes whose sizes remember where they come from, however Python asks for them: size, numel, stride, bytes."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from podar.graph.sizes import Size


class Shape(tuple[int, ...]):
    """What `x.shape` gives: a `torch.Size` to whoever asks, except that its slices and its product remember, too.

    torch.Size itself cannot be derived from, and multiplies in C.
    """

    __slots__ = ()

    @property
    def __class__(self) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.Size

    def __getitem__(self, key: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        found = tuple.__getitem__(self, key)
        return Shape(found) if type(key) is slice else found

    def __add__(self, other: Any) -> Any:
        return Shape(tuple.__add__(self, other)) if isinstance(other, tuple) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return Shape(tuple.__add__(other, self)) if isinstance(other, tuple) else NotImplemented

    def __mul__(self, times: Any) -> Any:
        return Shape(tuple.__mul__(self, times))

    __rmul__ = __mul__

    def numel(self) -> int:
        """The product of the sizes."""
        return product(self)

    def __array_function__(self, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        """numpy's product remembers. Other results of numpy are plain numbers, and the sizes in them must stay."""
        if func is np.prod and not kwargs and len(args) == 1:
            return product(self)
        plain = [tuple([int(n) for n in a]) if type(a) is Shape else a for a in args]
        return func(*plain, **{k: tuple([int(n) for n in v]) if type(v) is Shape else v for k, v in kwargs.items()})

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    def __reduce__(self) -> tuple[Any, ...]:
        return torch.Size, ([operator.index(n) for n in self],)

    def __deepcopy__(self, memo: object) -> torch.Size:
        return torch.Size([operator.index(n) for n in self])


def product(sizes: Sequence[int]) -> int:
    """The product of sizes, which remembers them."""
    return functools.reduce(operator.mul, sizes, 1)


def strides(tensor: Tensor, sizes: Sequence[int]) -> tuple[int, ...]:
    """Steps in memory: products of the sizes further in, where there are no gaps; otherwise all sizes must stay."""
    plain = torch.Tensor.stride(tensor)
    found: list[int] = list(plain)
    step = 1
    for d in sorted(range(len(plain)), key=lambda d: (plain[d], sizes[d] != 1)):
        if plain[d] != step:
            if sizes[d] == 1:
                continue
            for size in sizes:
                if isinstance(size, Size):
                    size.forgotten()
            return plain
        found[d] = step
        step = step * sizes[d]
    return tuple(found)


def sizes_among(arguments: Any) -> list[Size]:
    """The sizes among the arguments of a call, in tuples, lists and slices too."""
    found: list[Size] = []
    for item in arguments:
        kind = type(item)
        if kind is Size:
            found.append(item)
        elif kind is tuple or kind is list or kind is Shape or kind is torch.Size:
            if item and type(item[0]) is not Tensor:
                found += sizes_among(item)
        elif kind is slice:
            found += sizes_among((item.start, item.stop, item.step))
    return found
