"""Where each value lies in memory: planes with their zero pads, views into shared storages, memory used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from podar_native.network import Node, Value


@dataclass(frozen=True)
class Planes:
    """A tensor of the file: element (c, y, x) lies at base + c·plane + y·stride + x, `lead` zeros before each plane."""

    base: int
    channels: int
    height: int
    width: int
    stride: int
    plane: int
    lead: int


@dataclass(frozen=True)
class Layout:
    """Every value's planes, the values whose pads must stay zero, and the floats that all of them need."""

    planes: dict[int, Planes]
    clean: frozenset[int]
    floats: int


def round_up(n: int, to: int) -> int:
    return -(-n // to) * to


class _Sets:
    """Union-find over integers."""

    def __init__(self) -> None:
        self.parent: dict[int, int] = {}

    def find(self, x: int) -> int:
        while self.parent.setdefault(x, x) != x:
            self.parent[x] = self.parent[self.parent[x]]
            x = self.parent[x]
        return x

    def join(self, x: int, y: int) -> None:
        self.parent[self.find(x)] = self.find(y)


def lay_out(nodes: Sequence[Node], times: Sequence[int]) -> Layout:
    """Lay out the values of nodes in which strides are split into phases and concatenations have their copies.

    `times[i]`: when node i runs; nodes of one chain run at the same time, so none of them may reuse another's memory.
    """
    values = {v.index: v for node in nodes for v in (*node.inputs, node.out) if v is not None}
    storage, first_channel = _storages(nodes, values)
    roots = {i: storage[i] for i in values}

    # Flat positions mean the same in all values of a family: one row stride, one plane.
    family = _Sets()
    pads: dict[int, tuple[int, int]] = {}
    dirty_readers: set[int] = set()
    for node in nodes:
        if node.out is None:
            continue
        if node.kind == "conv" and not node.settings.get("dots"):
            for v in node.inputs:
                family.join(roots[v.index], roots[node.out.index])
            reach = node.settings["reach"]  # rows and columns that the kernel looks beyond the image
            old = pads.get(roots[node.inputs[0].index], (0, 0))
            pads[roots[node.inputs[0].index]] = (max(old[0], reach[0]), max(old[1], reach[1]))
            if any(reach):
                dirty_readers.add(roots[node.inputs[0].index])
        elif node.kind == "depthwise":
            reach, root = node.settings["reach"], roots[node.inputs[0].index]
            old = pads.get(root, (0, 0))
            pads[root] = (max(old[0], reach[0]), max(old[1], reach[1]))
            dirty_readers.add(root)
            if node.out.shape[1:] == node.inputs[0].shape[1:]:  # rows shorter than a vector go together
                family.join(root, roots[node.out.index])
        elif node.kind in ("add", "act", "attention") or (node.kind == "mul" and not node.settings.get("per_channel")):
            for v in node.inputs:
                family.join(roots[v.index], roots[node.out.index])
        elif node.kind == "mul":
            family.join(roots[node.inputs[0].index], roots[node.out.index])

    families: dict[int, list[int]] = {}
    for index in values:
        families.setdefault(family.find(roots[index]), []).append(index)
    shape: dict[int, tuple[int, int, int]] = {}  # of each family: stride, plane, lead
    for head, members in families.items():
        pad_y = max((pads.get(roots[i], (0, 0))[0] for i in members), default=0)
        pad_x = max((pads.get(roots[i], (0, 0))[1] for i in members), default=0)
        height = max(values[i].height for i in members)
        stride = max(values[i].width for i in members) + pad_x
        lead = round_up(pad_y * stride + pad_x, 16)
        plane = lead + round_up(height * stride, 16)
        plane += 16 * (
            plane // 16 % 2 == 0 and plane > 64
        )  # an odd number of lines: planes spread over the cache's sets
        shape[head] = stride, plane, lead

    bases, floats = _assign(nodes, times, values, roots, {i: shape[family.find(roots[i])] for i in values})
    planes = {}
    for index, value in values.items():
        stride, plane, lead = shape[family.find(roots[index])]
        base = bases[roots[index]] + first_channel[index] * plane
        planes[index] = Planes(base, value.channels, value.height, value.width, stride, plane, lead)
    clean = frozenset(i for i in values if roots[i] in dirty_readers)
    return Layout(planes, clean, floats)


def _storages(nodes: Sequence[Node], values: dict[int, Value]) -> tuple[dict[int, int], dict[int, int]]:
    """The storage (named by its widest value) that each value lies in, and its first channel there."""
    inside: dict[int, tuple[int, int]] = {}  # value -> (the value it lies in, its first channel there)
    for node in nodes:
        if node.kind == "slice":
            assert node.out is not None
            inside[node.out.index] = node.inputs[0].index, node.settings["first"]
        elif node.kind == "concat":
            assert node.out is not None
            at = 0
            for part in node.inputs:
                if part.index not in inside:
                    inside[part.index] = node.out.index, at
                at += part.channels
    storage, first = {}, {}
    for index in values:
        root, channel = index, 0
        while root in inside:
            root, step = inside[root]
            channel += step
        storage[index], first[index] = root, channel
    return storage, first


def _assign(
    nodes: Sequence[Node],
    times: Sequence[int],
    values: dict[int, Value],
    roots: dict[int, int],
    shape: dict[int, tuple[int, int, int]],
) -> tuple[dict[int, int], int]:
    """First fit: memory is used again as soon as what lay there is read for the last time, while it is in the cache.

    Nothing is kept from one use to the next: who writes a value whose pads must be zero writes the zeros too.
    """
    born: dict[int, int] = {}
    dies: dict[int, int] = {}
    for node, time in zip(nodes, times):
        for v in (*node.inputs, *([node.out] if node.out else [])):
            root = roots[v.index]
            born[root] = min(born.get(root, time), time)
            dies[root] = max(dies.get(root, time), time)
    placed: dict[int, tuple[int, int]] = {}  # root -> its floats in the arena
    bases: dict[int, int] = {}
    for root in sorted(born, key=lambda r: (born[r], -values[r].channels * shape[r][1])):
        stride, plane, lead = shape[root]
        # Zeros before the first plane and after the last; kernels read whole vectors beyond the end.
        size = round_up(2 * lead + values[root].channels * plane + stride + 32, 16)
        taken = sorted(placed[other] for other in placed if born[other] <= dies[root] and born[root] <= dies[other])
        at = 0
        for start, end in taken:
            if start - at >= size:
                break
            at = max(at, end)
        placed[root] = at, at + size
        bases[root] = at + lead
    return bases, max((end for _, end in placed.values()), default=0)
