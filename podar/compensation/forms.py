"""Forms of linear maps: how a convolution or a product unfolds its inputs into rows, and its weight into a matrix.

A map with `groups` parts is a batch of matrices: rows (groups, positions, columns), weight (groups, outputs, columns).
The columns of a part are its input channels, each with all its kernel positions beside one another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(frozen=True)
class Product:
    """Rows times a matrix: `x @ weight.T`, or `x @ weight` where the parameter lists inputs first.

    **Attributes:**

    - `inputs_first`: the parameter's first axis lists inputs (transformers' Conv1D, `x @ weight`).
    """

    inputs_first: bool = False
    groups: int = 1

    @property
    def input_dim(self) -> int:
        """The axis of the parameter that lists inputs."""
        return 0 if self.inputs_first else 1

    def matrix(self, weight: Tensor) -> Tensor:
        """(1, outputs, inputs) of a weight."""
        return (weight.t() if self.inputs_first else weight).unsqueeze(0)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The weight of a matrix, in the shape and type of `like`."""
        return (matrix[0].t() if self.inputs_first else matrix[0]).reshape(like.shape).to(like.dtype)

    def kernel(self, weight: Tensor) -> int:
        """Columns that one input has."""
        return 1

    def positions(self, x: Tensor, weight: Tensor) -> int:
        """How many rows an input of this shape gives."""
        return x.numel() // x.shape[-1]

    def rows(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        """(1, chosen, inputs): the rows of an input at some positions."""
        return x.reshape(-1, x.shape[-1])[chosen].unsqueeze(0)

    def outputs(self, y: Tensor, chosen: Tensor) -> Tensor:
        """(chosen, outputs) of a tensor of the map's output shape at some positions."""
        return y.reshape(-1, y.shape[-1])[chosen]


@dataclass(frozen=True)
class Convolution:
    """A convolution of one, two or three dimensions, plain or transposed, in any number of groups."""

    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    transposed: bool
    output_padding: tuple[int, ...]
    groups: int

    @property
    def input_dim(self) -> int:
        """The axis of the parameter that lists inputs (those of one group, in a plain convolution)."""
        return 0 if self.transposed else 1

    def matrix(self, weight: Tensor) -> Tensor:
        """(groups, outputs of a group, inputs of a group × kernel positions) of a weight."""
        g = self.groups
        if not self.transposed:
            return weight.reshape(g, weight.shape[0] // g, -1)
        # A transposed convolution is a plain one, by the mirrored kernel, over inputs with zeros between them.
        mirrored = weight.flip(tuple(range(2, weight.dim()))).reshape(g, weight.shape[0] // g, *weight.shape[1:])
        return mirrored.transpose(1, 2).reshape(g, weight.shape[1], -1)

    def weight(self, matrix: Tensor, like: Tensor) -> Tensor:
        """The weight of a matrix, in the shape and type of `like`."""
        if not self.transposed:
            return matrix.reshape(like.shape).to(like.dtype)
        g, kernel = self.groups, like.shape[2:]
        split = matrix.reshape(g, like.shape[1], like.shape[0] // g, *kernel).transpose(1, 2)
        return split.reshape(like.shape).flip(tuple(range(2, like.dim()))).to(like.dtype)

    def kernel(self, weight: Tensor) -> int:
        """Columns that one input has: the positions of the kernel."""
        return math.prod(weight.shape[2:])

    def positions(self, x: Tensor, weight: Tensor) -> int:
        """How many rows an input of this shape gives: its pictures times their output positions."""
        return x.shape[0] * math.prod(self._sizes(x, weight))

    def rows(self, x: Tensor, weight: Tensor, chosen: Tensor) -> Tensor:
        """(groups, chosen, inputs of a group × kernel positions): patches of an input at some output positions."""
        sizes, kernel = self._sizes(x, weight), weight.shape[2:]
        stride = (1,) * len(kernel) if self.transposed else self.stride
        x = self._padded(x, kernel)
        near = x.stride()[2:]
        windows = x.as_strided(
            (x.shape[0], *sizes, x.shape[1], *kernel),
            (
                x.stride(0),
                *(n * s for n, s in zip(near, stride)),
                x.stride(1),
                *(n * d for n, d in zip(near, self.dilation)),
            ),
            x.storage_offset(),
        )
        places = torch.unravel_index(chosen, (x.shape[0], *sizes))
        patches = windows[places]  # (chosen, channels, kernel …)
        return patches.reshape(len(chosen), self.groups, -1).transpose(0, 1)

    def outputs(self, y: Tensor, chosen: Tensor) -> Tensor:
        """(chosen, outputs) of a tensor of the map's output shape at some positions."""
        places = torch.unravel_index(chosen, (y.shape[0], *y.shape[2:]))
        return y.movedim(1, -1)[places]

    def _sizes(self, x: Tensor, weight: Tensor) -> list[int]:
        """Output sizes, without batch and channels."""
        found = []
        for k, n in enumerate(x.shape[2:]):
            reach = self.dilation[k] * (weight.shape[2 + k] - 1)
            if self.transposed:
                found.append((n - 1) * self.stride[k] - 2 * self.padding[k] + reach + self.output_padding[k] + 1)
            else:
                found.append((n + 2 * self.padding[k] - reach - 1) // self.stride[k] + 1)
        return found

    def _padded(self, x: Tensor, kernel: Sequence[int]) -> Tensor:
        if not self.transposed:
            sides = [side for p in reversed(self.padding) for side in (p, p)]
            return functional.pad(x, sides) if any(sides) else x
        spread = x.new_zeros(*x.shape[:2], *((n - 1) * s + 1 for n, s in zip(x.shape[2:], self.stride)))
        spread[(..., *(slice(None, None, s) for s in self.stride))] = x
        sides = []
        for k in reversed(range(len(kernel))):
            before = self.dilation[k] * (kernel[k] - 1) - self.padding[k]
            sides += [before, before + self.output_padding[k]]
        return functional.pad(spread, sides)


Form = Product | Convolution
