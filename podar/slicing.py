"""What remains of a tensor once slices are gone."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from podar.plans import Cut

BLOCK = 1 << 18
"""Elements gathered at a time: few enough that rows are still in the cache when their columns are chosen."""


def empty_after(tensor: Tensor, cuts: tuple[Cut, ...]) -> Tensor:
    """A tensor without values, of the shape and memory format that these cuts leave."""
    shape = list(tensor.shape)
    for c in cuts:
        shape[c.dim] = (c.size - len(c.removed)) // c.groups
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=_format(tensor))


class Slicer:
    """Cuts one tensor after the other; remembers the indices that many of them lose."""

    def __init__(self) -> None:
        self._scratch: dict[tuple[torch.dtype, torch.device], Tensor] = {}
        self._kept: dict[tuple[int, int, torch.device], Tensor] = {}

    def cut(self, tensor: Tensor, cuts: tuple[Cut, ...]) -> Tensor:
        """What remains of a tensor, in its memory format."""
        layout = _format(tensor)
        kept = {c.dim: self.kept(c, tensor.device) for c in cuts}
        grouped = next((c for c in cuts if c.groups > 1), None)
        if grouped is not None:
            tensor = self._in_groups(tensor, kept, grouped)
        return self._select(tensor, kept).contiguous(memory_format=layout)

    def kept(self, c: Cut, device: torch.device) -> Tensor:
        """Indices that stay. A plan shares its lists, told apart by identity: long tuples are slow to hash."""
        key = (id(c.removed), c.size, device)
        found = self._kept.get(key)
        if found is None:
            keep = np.ones(c.size, dtype=bool)
            keep[list(c.removed)] = False
            found = self._kept[key] = torch.from_numpy(np.flatnonzero(keep)).to(device)
        return found

    def _in_groups(self, tensor: Tensor, kept: dict[int, Tensor], c: Cut) -> Tensor:
        """The weight of a grouped convolution: every group of rows keeps positions of its own."""
        rows, width = len(tensor), c.size // c.groups
        places = (kept.pop(c.dim) % width).reshape(c.groups, -1)
        chosen = kept.pop(0, torch.arange(rows, device=tensor.device))
        pairs = chosen[:, None] * width + places[chosen // (rows // c.groups)]
        tensor = tensor.reshape(rows * width, *tensor.shape[2:])
        return self._pick(tensor, 0, pairs.flatten(), last=True).reshape(*pairs.shape, *tensor.shape[1:])

    def _select(self, tensor: Tensor, kept: dict[int, Tensor]) -> Tensor:
        """The indices in `kept`, dimension by dimension; large matrices a block of rows at a time."""
        if kept.keys() != {0, 1} or tensor.numel() <= BLOCK or not tensor.is_contiguous():
            for place, (dim, index) in enumerate(kept.items(), 1):
                tensor = self._pick(tensor, dim, index, last=place == len(kept))
            return tensor
        rows, columns = kept[0], kept[1]
        out = tensor.new_empty(len(rows), len(columns), *tensor.shape[2:])
        step = max(1, BLOCK * len(tensor) // tensor.numel())
        for start in range(0, len(rows), step):
            block = self._pick(tensor, 0, rows[start : start + step], last=False)
            torch.index_select(block, 1, columns, out=out[start : start + step])
        return out

    def _pick(self, tensor: Tensor, dim: int, index: Tensor, last: bool) -> Tensor:
        """Some indices of one dimension; what is not yet the last selection lies in memory that the next one reuses.

        A large tensor is given to the system when it dies, and new memory traps into the kernel page by page.
        """
        if last:
            return tensor.index_select(dim, index)
        shape = [*tensor.shape[:dim], len(index), *tensor.shape[dim + 1 :]]
        count, key = math.prod(shape), (tensor.dtype, tensor.device)
        if key not in self._scratch or self._scratch[key].numel() < count:
            self._scratch[key] = tensor.new_empty(count)
        return torch.index_select(tensor, dim, index, out=self._scratch[key][:count].view(shape))


def _format(tensor: Tensor) -> torch.memory_format:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
