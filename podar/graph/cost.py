"""Parameters, MACs, bytes and peak activation memory of a graph under a plan: pure arithmetic, no model is run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from podar.graph.families import Families
from podar.graph.labels import Ids
from podar.graph.record import Record

Fractions = NDArray[np.float64]
"""For every family the share of its units that stays."""


@dataclass(frozen=True)
class Cost:
    """What a network costs at its example input.

    **Attributes:**

    - `params`: number of parameters.
    - `macs`: multiply-accumulates of one forward pass.
    - `bytes`: parameters and buffers, in bytes.
    - `memory_bytes`: peak of the activations that live at the same time, in bytes (eager execution, inputs excluded).
    """

    params: int
    macs: int
    bytes: int
    memory_bytes: int

    def to_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Shares:
    """What is left of a traced model under a plan.

    **Attributes:**

    - `families`: for every family the share of its units that stays.
    - `tensors`, `products`: for every tensor and every product of the trace 0 where it goes as a whole, with a block
      that is skipped, and 1 elsewhere; 1.0 where no block is skipped.
    """

    families: Fractions
    tensors: Fractions | float = 1.0
    products: Fractions | float = 1.0


class CostModel:
    """Every axis of a traced model as a sum over families, so that a plan is priced by a few array operations."""

    def __init__(self, record: Record, families: Families, tensors: Mapping[str, tuple[int, int, bool]]) -> None:
        """`tensors`: for each distinct tensor its elements, its bytes an element, and whether it is a parameter."""
        self.families = len(families)
        self.arrays: dict[int, int] = {}
        self._kept: list[Ids] = []
        names = list(tensors)
        self.elements = np.array([tensors[n][0] for n in names], dtype=np.float64)
        self.width = np.array([tensors[n][1] for n in names], dtype=np.float64)
        self.is_parameter = np.array([tensors[n][2] for n in names], dtype=bool)
        self.tensor_axes = self._table([list(record.layouts.get(n, {}).values()) for n in names])
        self.macs_dense = np.array([p.macs for p in record.products], dtype=np.float64)
        self.product_axes = self._table([list(p.axes) for p in record.products])
        self.modules = [p.module for p in record.products]
        self._memory(record)
        self._census(families)

    def cost(self, share: Fractions) -> Cost:
        """Cost when each family keeps the given share of its units."""
        kept = self.kept(share)
        elements = self.elements * kept[self.tensor_axes].prod(axis=1)
        memory = self.bytes_dense * kept[self.storage_axes].prod(axis=1)
        return Cost(
            params=round(float(elements[self.is_parameter].sum())),
            macs=round(float((self.macs_dense * kept[self.product_axes].prod(axis=1)).sum())),
            bytes=round(float((elements * self.width).sum())),
            memory_bytes=self._peak(memory),
        )

    def params(self, left: Shares) -> float:
        """Parameters that are left, not rounded."""
        return float(self._elements(left)[self.is_parameter].sum())

    def bytes(self, left: Shares) -> float:
        """Bytes of the parameters and buffers that are left, not rounded."""
        return float((self._elements(left) * self.width).sum())

    def macs(self, left: Shares) -> float:
        """Multiply-accumulates of what is left, not rounded."""
        kept = self.kept(left.families)
        return float((self.macs_dense * kept[self.product_axes].prod(axis=1) * left.products).sum())

    def memory(self, left: Shares) -> float:
        """Peak bytes of the activations of what is left; those of blocks that go as a whole are still counted."""
        return self._peak(self.bytes_dense * self.kept(left.families)[self.storage_axes].prod(axis=1))

    def _elements(self, left: Shares) -> Fractions:
        return self.elements * self.kept(left.families)[self.tensor_axes].prod(axis=1) * left.tensors

    def macs_by_module(self, share: Fractions) -> dict[str, int]:
        """MACs of each module that computes."""
        found: dict[str, int] = {}
        each = self.macs_dense * self.kept(share)[self.product_axes].prod(axis=1)
        for module, count in zip(self.modules, each):
            found[module] = found.get(module, 0) + round(float(count))
        return found

    def kept(self, share: Fractions) -> Fractions:
        """Share of each axis that stays; the last entry is 1, for axes that never change."""
        each = self.count * np.append(share, 1.0)[self.family].prod(axis=1)
        sizes = np.bincount(self.owner, weights=each, minlength=len(self.size))
        return np.append(sizes / self.size, 1.0)

    def _table(self, rows: Sequence[Sequence[Ids]]) -> NDArray[np.int64]:
        """Axes by number, padded with −1 (the entry of `kept` that is always 1)."""
        table = np.full((len(rows), max([1, *(len(r) for r in rows)])), -1, dtype=np.int64)
        for i, row in enumerate(rows):
            for j, ids in enumerate(row):
                if id(ids) not in self.arrays:
                    self.arrays[id(ids)] = len(self._kept)
                    self._kept.append(ids)
                table[i, j] = self.arrays[id(ids)]
        return table

    def _memory(self, record: Record) -> None:
        born: dict[int, tuple[int, int, list[Ids]]] = {}
        last: dict[int, int] = {}
        for k, step in enumerate(record.steps):
            for storage, size in step.writes:
                blocks = step.blocks[0] if step.blocks else ()
                born[storage] = (k, size, [ids for _, ids in blocks])
                last[storage] = k
            for storage in step.reads:
                last[storage] = k
        self.born = np.array([b[0] for b in born.values()], dtype=np.int64)
        self.dies = np.array([last[s] for s in born], dtype=np.int64)
        self.bytes_dense = np.array([b[1] for b in born.values()], dtype=np.float64)
        self.storage_axes = self._table([b[2] for b in born.values()])
        self.steps = len(record.steps)

    def _peak(self, sizes: Fractions) -> int:
        change = np.zeros(self.steps + 1)
        np.add.at(change, self.born, sizes)
        np.add.at(change, self.dies + 1, -sizes)
        return round(float(change.cumsum().max(initial=0.0)))

    def _census(self, families: Families) -> None:
        """Count the indices of every axis by the families that they depend on: all axes in one pass."""
        sizes = np.array([ids.size for ids in self._kept], dtype=np.int64)
        self.size = sizes.astype(np.float64)
        none = self.families
        if not len(sizes):
            self.owner, self.family, self.count = np.zeros(0, np.int64), np.zeros((0, 1), np.int64), np.zeros(0)
            return
        found = families.family_of[families.solution.units_of(np.concatenate([ids.ravel() for ids in self._kept]))]
        found[found < 0] = none
        owner = np.repeat(np.arange(len(sizes)), sizes)
        several = (found < none).sum(axis=1) > 1
        single = found.T[:, ~several].min(axis=0)
        tally = np.bincount(owner[~several] * (none + 1) + single, minlength=len(sizes) * (none + 1))
        present = np.flatnonzero(tally)
        one = np.full((len(present), found.shape[1]), none)
        one[:, 0] = present % (none + 1)
        # Several families: which ones and where, as one random number a combination.
        weights = np.random.default_rng(0).integers(1, 2**63, size=len(sizes) + none + 1, dtype=np.uint64)
        owner, found = owner[several], found.T[:, several].T
        code = weights[owner] + weights[len(sizes) + found].sum(axis=1)
        starts = np.flatnonzero(np.r_[True, code[1:] != code[:-1]]) if len(code) else np.zeros(0, np.int64)  # of runs
        _, place, run = np.unique(code[starts], return_index=True, return_inverse=True)
        counts = np.bincount(run, weights=np.diff(starts, append=len(code)), minlength=len(place))
        self.owner = np.concatenate([present // (none + 1), owner[starts][place]])
        self.family = np.concatenate([one, found[starts][place]])
        self.count = np.concatenate([tally[present], counts]).astype(np.float64)
