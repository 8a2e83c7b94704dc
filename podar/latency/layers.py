"""The fused layers of a traced model: each convolution and linear layer with what runtimes compute at once."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from podar.graph.cost import Shares
from podar.graph.graph import Graph
from podar.graph.labels import Ids
from podar.graph.record import Form, Product, Step

NORMS = {"batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm"}
"""Operators that exporters fold into the layer before them."""

ACTIVATIONS = {
    "relu", "relu6", "hardtanh", "sigmoid", "tanh", "silu", "gelu", "hardswish", "hardsigmoid", "leaky_relu", "elu",
}  # fmt: skip

TAIL = 3
"""At most so many operators behind a layer belong to it."""


@dataclass(frozen=True)
class Layer:
    """One fused layer at certain widths; equal layers take equally long.

    **Attributes:**

    - `kind`: "conv" or "linear".
    - `input`: the shape that enters, of which axis 1 of a convolution and the last of a linear layer are channels.
    - `outputs`: how many channels come out.
    - `kernel`, `stride`, `padding`, `dilation`, `extra`: of a convolution, a number an axis; `groups`, `transposed`.
    - `tail`: what is fused into it: activations, and "add", the sum of its result with a tensor of the same shape.
    """

    kind: str
    input: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    extra: tuple[int, ...] = ()
    groups: int = 1
    transposed: bool = False
    tail: tuple[str, ...] = ()

    @property
    def channels(self) -> int:
        """How many channels enter."""
        return self.input[1] if self.kind == "conv" else self.input[-1]

    @property
    def depthwise(self) -> bool:
        """Whether each group has one input."""
        return self.groups > 1 and self.groups == self.channels

    @property
    def output(self) -> tuple[int, ...]:
        """The shape that comes out."""
        if self.kind == "linear":
            return (*self.input[:-1], self.outputs)
        sizes = zip(self.input[2:], self.kernel, self.stride, self.padding, self.dilation, self.extra)
        if self.transposed:
            places = [(n - 1) * s - 2 * p + d * (k - 1) + e + 1 for n, k, s, p, d, e in sizes]
        else:
            places = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d, _ in sizes]
        return (self.input[0], self.outputs, *places)

    @property
    def weight(self) -> tuple[int, ...]:
        """The shape of its weights."""
        if self.kind == "linear":
            return (self.outputs, self.channels)
        first, second = (self.channels, self.outputs) if self.transposed else (self.outputs, self.channels)
        return (first, second // self.groups, *self.kernel)

    @property
    def macs(self) -> int:
        """Multiply-accumulates."""
        places = self.input[2:] if self.transposed else self.output[2:]
        if self.kind == "linear":
            return int(np.prod(self.input)) * self.outputs
        return int(np.prod(self.weight) * np.prod(places) * self.input[0])

    def at(self, channels: int, outputs: int) -> Layer:
        """The same layer with other widths. A depthwise layer has as many outputs for each input as before."""
        if self.kind == "linear":
            return replace(self, input=(*self.input[:-1], channels), outputs=outputs)
        groups = self.groups
        if self.depthwise:
            each = self.outputs // self.channels
            channels = groups = max(1, outputs // each)
            outputs = channels * each
        elif groups > 1:
            channels, outputs = (max(groups, n // groups * groups) for n in (channels, outputs))
        return replace(self, input=(self.input[0], channels, *self.input[2:]), outputs=outputs, groups=groups)

    def __str__(self) -> str:
        """A name that equal layers share, and no others: "conv 1x64x56x56 64 3x3 s1x1 p1x1 relu"."""
        parts = [self.kind, _sizes(self.input), str(self.outputs)]
        if self.kernel:
            parts += [_sizes(self.kernel), f"s{_sizes(self.stride)}", f"p{_sizes(self.padding)}"]
        parts += [f"d{_sizes(self.dilation)}"] if set(self.dilation) - {1} else []
        parts += [f"g{self.groups}"] if self.groups > 1 else []
        parts += [f"t{_sizes(self.extra)}"] if self.transposed else []
        return " ".join([*parts, *self.tail])


def _sizes(numbers: Iterable[int]) -> str:
    return "x".join(map(str, numbers))


@dataclass(frozen=True)
class PlacedLayer:
    """Where a layer stands in the model: by which products its widths are known, and the layer at its dense widths."""

    product: int
    module: str
    layer: Layer
    into: int  # places among the axes of the graph's costs
    out_of: int


class Layers:
    """The fused layers of one traced model, and what they become under a plan.

    **Attributes:**

    - `places`: the layers.
    - `rest_dense`: bytes that all other operators move.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        record = graph.record
        self.places: list[PlacedLayer] = []
        taken: set[int] = set()
        readers = _readers(record.steps)
        axes = graph.costs.arrays
        for number, product in enumerate(record.products):
            layer = None if product.form is None else _layer(product, product.form)
            if layer is None or product.form is None:
                continue
            tail, steps = _tail(record.steps, readers, product.step)
            taken.update((product.step, *steps))
            into, out_of = (_axis(axes, ids) for ids in (product.form.into, product.form.out_of))
            self.places.append(PlacedLayer(number, product.module, replace(layer, tail=tail), into, out_of))
        self._rest = self._moved(record.steps, taken)
        self._into = np.array([p.into for p in self.places], dtype=np.int64)
        self._out_of = np.array([p.out_of for p in self.places], dtype=np.int64)
        self._widths = np.array([(p.layer.channels, p.layer.outputs) for p in self.places], dtype=np.float64)
        self._numbers = np.array([p.product for p in self.places], dtype=np.int64)

    @cached_property
    def rest_dense(self) -> float:
        return self.rest(Shares(np.ones(len(self.graph.families))))

    def widths(self, left: Shares) -> NDArray[np.float64]:
        """(layers, 2): channels that enter and come out of each under a plan."""
        if not self.places:
            return np.zeros((0, 2))
        kept = self.graph.costs.kept(left.families)
        return self._widths * np.stack([kept[self._into], kept[self._out_of]], axis=1)

    def stays(self, left: Shares) -> NDArray[np.float64]:
        """For each layer 0 where it goes with its block, and 1 elsewhere."""
        if isinstance(left.products, (int, float)):
            return np.full(len(self.places), left.products)
        return np.asarray(left.products)[self._numbers]

    def rest(self, left: Shares) -> float:
        """Bytes that are moved by the operators that belong to no layer."""
        kept = self.graph.costs.kept(left.families)
        sizes = self.graph.costs.bytes_dense * kept[self.graph.costs.storage_axes].prod(axis=1)
        return float((sizes * self._rest).sum())

    def under(self, left: Shares) -> list[Layer]:
        """The layers that are left under a plan, one for each place."""
        widths = np.maximum(1, np.rint(self.widths(left))).astype(int)
        stays = self.stays(left)
        return [p.layer.at(int(i), int(o)) for p, (i, o), s in zip(self.places, widths, stays) if s]

    def _moved(self, steps: Sequence[Step], taken: set[int]) -> NDArray[np.float64]:
        """How often each storage is read or written by steps that belong to no layer."""
        number: dict[int, int] = {}
        for step in steps:
            for storage, _ in step.writes:
                number.setdefault(storage, len(number))
        times = np.zeros(len(number))
        for place, step in enumerate(steps):
            if place in taken or (not step.writes and not step.name.endswith("_")):  # views move no bytes
                continue
            for storage in {*step.reads, *(s for s, _ in step.writes)}:
                if storage in number:
                    times[number[storage]] += 1
        return times


def _axis(axes: Mapping[int, int], ids: Ids | None) -> int:
    """The place of an axis among those of the graph's costs; the last of all is the one that never changes."""
    return -1 if ids is None else axes.get(id(ids), -1)


def _layer(product: Product, form: Form) -> Layer | None:
    """A product as a layer without its tail."""
    shape, weight = tuple(map(int, form.input)), tuple(map(int, form.weight))
    if not form.settings:
        return Layer("linear", shape, weight[0])
    stride, padding, dilation, transposed, extra, groups = form.settings
    rank = len(weight) - 2
    if len(shape) == rank + 1:  # without a batch
        shape = (1, *shape)
    outputs = weight[1] * groups if transposed else weight[0]

    def each(given: Sequence[int]) -> tuple[int, ...]:
        """One number an axis."""
        return tuple(map(int, given)) * (rank if len(given) == 1 else 1)

    return Layer(
        "conv", shape, outputs, weight[2:], each(stride), each(padding), each(dilation), each(extra), int(groups),
        bool(transposed),
    )  # fmt: skip


def _readers(steps: Sequence[Step]) -> dict[int, list[int]]:
    """For each storage the steps that read it."""
    found: dict[int, list[int]] = {}
    for place, step in enumerate(steps):
        for storage in step.reads:
            found.setdefault(storage, []).append(place)
    return found


def _tail(steps: Sequence[Step], readers: Mapping[int, list[int]], start: int) -> tuple[tuple[str, ...], list[int]]:
    """What is computed with the result of a step at once, and which steps that are."""
    tail: list[str] = []
    taken: list[int] = []
    if not steps[start].writes:
        return (), []
    storage, size = steps[start].writes[0]
    at = start
    while len(tail) < TAIL:
        after = [place for place in readers.get(storage, ()) if place > at]
        if not after:
            break
        at = after[0]
        step, name = steps[at], steps[at].name
        own = name.removesuffix("_")
        in_place = not step.writes
        if not in_place and len(after) > 1:  # other operators read the result as it is
            break
        if own == "add" and len(step.reads) == 2 and (in_place or step.writes[0][1] == size):
            tail.append("add")
        elif own in ACTIVATIONS and in_place == name.endswith("_"):
            tail.append(own)
        elif own not in NORMS:
            break
        taken.append(at)
        storage = storage if in_place else step.writes[0][0]
    return tuple(tail), taken
