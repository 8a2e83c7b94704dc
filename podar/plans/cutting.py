"""What remains of a tensor once slices are gone."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import Tensor

from podar.model.fast_loops import take
from podar.plans.plan import Cut


def empty_after(tensor: Tensor, cuts: tuple[Cut, ...]) -> Tensor:
    """A tensor without values, of the shape and memory format that these cuts leave."""
    shape = list(tensor.shape)
    for c in cuts:
        shape[c.dim] = (c.size - len(c.removed)) // c.groups
    return torch.empty(shape, dtype=tensor.dtype, device=tensor.device, memory_format=_format(tensor))


class Slicer:
    """Cuts one tensor after the other; remembers the indices that many of them lose."""

    def __init__(self) -> None:
        self._kept: dict[tuple[int, int, torch.device], Tensor] = {}

    def cut(self, tensor: Tensor, cuts: tuple[Cut, ...]) -> Tensor:
        """What remains of a tensor, in its memory format."""
        layout = _format(tensor)
        kept = {c.dim: self.kept(c, tensor.device) for c in cuts}
        grouped = next((c for c in cuts if c.groups > 1), None)
        if grouped is not None:
            tensor = self._in_groups(tensor, kept, grouped)
        if 1 in kept and kept.keys() <= {0, 1} and tensor.is_contiguous():
            return take(tensor, kept.get(0), kept[1])
        for dim, index in kept.items():
            tensor = tensor.index_select(dim, index)
        return tensor.contiguous(memory_format=layout)

    def cut_vectors(self, vectors: list[tuple[Tensor, Cut]]) -> list[Tensor]:
        """What remains of many vectors: those of one type are cut in one call. Each result has its own memory."""
        found: dict[int, Tensor] = {}
        kinds: dict[tuple[torch.dtype, torch.device], list[int]] = {}
        for place, (vector, _) in enumerate(vectors):
            kinds.setdefault((vector.dtype, vector.device), []).append(place)
        for (_, device), places in kinds.items():
            kept = [self.kept(vectors[i][1], device) for i in places]
            lengths = [vectors[i][1].size for i in places]
            sizes = [k.shape[0] for k in kept]
            starts = np.repeat(np.cumsum(lengths) - lengths, sizes)
            index = torch.cat(kept) + torch.from_numpy(starts).to(device)
            chosen = torch.cat([vectors[i][0] for i in places]).index_select(0, index)
            parts = cast("list[Tensor]", torch.split_with_sizes_copy(chosen, sizes))
            found.update(zip(places, parts))
        return [found[place] for place in range(len(vectors))]

    def kept(self, c: Cut, device: torch.device) -> Tensor:
        """Indices that stay. Lists are told apart by identity: tensors share them, and long tuples are slow to hash."""
        key = (id(c.removed), c.size, device)
        found = self._kept.get(key)
        if found is None:
            keep = np.ones(c.size, dtype=bool)
            keep[c.array] = False
            found = self._kept[key] = torch.from_numpy(np.flatnonzero(keep)).to(device)
        return found

    def _in_groups(self, tensor: Tensor, kept: dict[int, Tensor], c: Cut) -> Tensor:
        """The weight of a grouped convolution: every group of rows keeps positions of its own."""
        rows, width = len(tensor), c.size // c.groups
        places = (kept.pop(c.dim) % width).reshape(c.groups, -1)
        chosen = kept.pop(0, torch.arange(rows, device=tensor.device))
        pairs = chosen[:, None] * width + places[chosen // (rows // c.groups)]
        line = tensor.reshape(1, rows * width, *tensor.shape[2:])
        return take(line, None, pairs.flatten()).reshape(*pairs.shape, *tensor.shape[2:])


def _format(tensor: Tensor) -> torch.memory_format:
    last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last) and not tensor.is_contiguous()
    return torch.channels_last if last else torch.contiguous_format
