"""The time of a model under a plan: its fused layers, each measured once, added up and scaled to the whole model."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import nn

from podar.errors import PodarError
from podar.graph.cost import Shares
from podar.graph.graph import Graph
from podar.latency.found import Found
from podar.latency.layers import Layer, Layers, PlacedLayer
from podar.latency.serving import TINY, Serving, checked_runtime, serving
from podar.latency.table import Table, check_table, kept_table, read_table
from podar.latency.timing import Lap
from podar.measuring.processors import processor
from podar.model.inputs import ExampleInputs
from podar.pruning.options import Options

USUAL = "onnxruntime"
"""The runtime where none is asked for."""

SHARES = (1.0, 0.5, 0.125)
"""A layer is measured at these shares of the channels on either side; between them times are interpolated linearly."""

FINE = (1.0, 0.75, 0.5, 0.25, 0.125)
"""The same shares where nothing can be measured afterwards."""

VECTOR = 16
"""Measured widths are multiples of this, or of its half below twice as many: whole vectors on every processor."""

PASSES = 4
"""An operator that belongs to no layer takes at most as long as so many copies of what it moves. What a model takes
beyond that is added to its layers, which are a little slower in the model than alone."""

SLOWER = 1.25
"""The layers of a model take at most so many times what they take alone. What is left over is taken by each run."""

LEAST = 0.02
"""At least this share of a layer's time alone is its own, whatever entering and leaving the runtime cost."""

SECONDS = 3.0
"""How long a candidate and the dense model are timed in turn."""


@dataclass(frozen=True)
class WidthGrid:
    """Milliseconds of the layers of a model at some widths: (layers, widths in, widths out)."""

    into: NDArray[np.float64]
    out_of: NDArray[np.float64]
    took: NDArray[np.float64]

    def at(self, widths: NDArray[np.float64]) -> NDArray[np.float64]:
        """Milliseconds at other widths, (layers, 2), by straight lines from one width to the next."""
        rows = np.arange(len(widths))
        i, p = _between(self.into, widths[:, 0])
        o, q = _between(self.out_of, widths[:, 1])
        t = self.took
        low = t[rows, i, o] * (1 - q) + t[rows, i, o + 1] * q
        high = t[rows, i + 1, o] * (1 - q) + t[rows, i + 1, o + 1] * q
        return np.maximum(low * (1 - p) + high * p, 0)


def _between(points: NDArray[np.float64], widths: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each row the place of the point below a width, and how far it is on the way to the next."""
    place = (widths[:, None] > points[:, 1:-1]).sum(1)
    rows = np.arange(len(points))
    low, high = points[rows, place], points[rows, place + 1]
    way = np.where(high > low, (widths - low) / np.where(high > low, high - low, 1), 0.0)
    return place, np.maximum(way, -1.0)


def prepare(model: nn.Module, example_inputs: ExampleInputs, graph: Graph, options: Options) -> Prices:
    """The prices of a model where `options` say that it will run.

    **Raises:** `UsageError`: a runtime that there is not, or a table of another runtime or number of threads;
    `PodarError`: a runtime that is not installed, a table that cannot be read, a model that cannot be exported.
    """
    name, threads = options.runtime, options.threads
    if options.table is None:
        here = serving(name or USUAL, threads)
        return Prices(graph, model, example_inputs, kept_table(here.version, threads, here.processor), here)
    table = read_table(options.table)
    name = name or table.runtime.partition(" ")[0]
    checked_runtime(name)
    check_table(table, options.table, name, threads)
    if table.processor != processor().name:
        return Prices(graph, model, example_inputs, table, None)
    here = serving(name, threads)
    return Prices(graph, model, example_inputs, table, here if table.runtime == here.version else None)


class Prices:
    """Prices plans of one model in milliseconds, and measures the layers whose times are not known.

    **Attributes:**

    - `table`: what is known of layers.
    - `serving`: the runtime that measures; None where the table is of another device.
    - `widths`: the multiple of channels that the runtime likes on its processor.
    - `dense_ms`: the whole model, measured.
    """

    def __init__(
        self,
        graph: Graph,
        model: nn.Module,
        example_inputs: ExampleInputs,
        table: Table,
        serving: Serving | None,
        dense: Lap | None = None,
    ) -> None:
        """`dense`: the model, ready to be timed; None: it is exported."""
        self.table, self.serving = table, serving
        self.widths = liked(table.runtime.partition(" ")[0], here=serving is not None)
        self.example_inputs = example_inputs
        self._layers: dict[int, tuple[Graph, Layers]] = {}
        self._grids: dict[int, WidthGrid] = {}
        self._dense: Lap | None = None
        first = self.layers(graph)
        self._whole = whole_name(first)
        self._rest_dense = first.rest_dense
        now = 0.0
        if serving is not None:
            self._dense = dense or serving.opened(model, example_inputs)
            now = serving.in_turn([self._dense], SECONDS / 2)[0]
            table.layers.setdefault(self._whole, now)
        total = sum(self.own(first.under(Shares(np.ones(len(graph.families))))))
        tabled = table.layers.get(self._whole, total)  # in a table of another device the whole model may be missing
        self.dense_ms = now or tabled
        today = self.dense_ms / max(tabled, TINY)  # the machine's speed now, and when the table was made
        fixed = min(tabled, run_alone(table.layers)) if total else 0.0
        rest = min(max(0.0, tabled - fixed - total), self._rest_dense * moving(first, table.layers) * PASSES)
        scale = min(SLOWER, (tabled - fixed - rest) / max(total, TINY))
        self.scale, self.rest_ms = today * scale, today * (rest if total else tabled)
        self.fixed_ms = self.dense_ms - self.scale * total - self.rest_ms

    def layers(self, graph: Graph) -> Layers:
        """The fused layers of a graph."""
        key = id(graph.record)
        if key not in self._layers:
            self._layers[key] = (graph, Layers(graph))
        return self._layers[key][1]

    def price(self, graph: Graph, left: Shares) -> float:
        """Milliseconds of what is left of a graph, interpolated between measured widths: quick enough for a search."""
        layers = self.layers(graph)
        key = id(graph.record)
        if key not in self._grids:
            self._grids[key] = self._grid(layers)
        took = self._grids[key].at(layers.widths(left)) * layers.stays(left)
        return self.scale * float(took.sum()) + self._rest(layers, left)

    def predicted(self, graph: Graph, left: Shares) -> float:
        """Milliseconds of what is left of a graph. Layers at widths that were never measured are measured now.

        With a table of another device, which has only some widths, this is what `price` says.
        """
        layers = self.layers(graph)
        if self.serving is None:
            return self.price(graph, left)
        return self.scale * sum(self.own(layers.under(left))) + self._rest(layers, left)

    def measured(self, candidate: nn.Module) -> float | None:
        """Milliseconds of a model, timed in turn with the dense one; None where the table is of another device."""
        return None if self.serving is None else self.timed(self.serving.opened(candidate, self.example_inputs))

    def timed(self, candidate: Lap) -> float:
        """Milliseconds of a model that is ready to be timed, in turn with the dense one."""
        assert self.serving is not None and self._dense is not None
        dense, own = self.serving.in_turn([self._dense, candidate], SECONDS)
        return self.dense_ms * own / dense if dense else own

    def found(self, predicted: float, measured: float | None) -> Found:
        """The predicted and the measured latency, as a result shows them."""
        own = self.table
        return Found(self.dense_ms, predicted, measured, own.runtime, own.threads, own.processor)

    def _rest(self, layers: Layers, left: Shares) -> float:
        """Milliseconds of what belongs to no layer, and of what every run takes, whatever it computes."""
        rest = self.rest_ms * layers.rest(left) / self._rest_dense if self._rest_dense else self.rest_ms
        return rest + self.fixed_ms

    def _grid(self, layers: Layers) -> WidthGrid:
        """The layers of a model at the widths of the grid."""
        shares = FINE if self.serving is None else SHARES
        points = [grid_widths(p, shares) for p in layers.places]
        size = max([2, *(max(len(i), len(o)) for i, o in points)])
        wanted = [p.layer.at(i, o) for p, (into, out_of) in zip(layers.places, points) for i in into for o in out_of]
        own = iter(self.own(wanted))
        took = np.zeros((len(points), size, size))
        for k, (into, out_of) in enumerate(points):
            block = np.array([next(own) for _ in range(len(into) * len(out_of))]).reshape(len(into), len(out_of))
            block = np.maximum.accumulate(np.maximum.accumulate(block, axis=0), axis=1)  # noise: wider is never faster
            took[k] = np.pad(block, ((size - len(into), 0), (size - len(out_of), 0)), mode="edge")
        sides = [
            np.array(
                [[each[0]] * (size - len(each)) + each for each in (pair[side] for pair in points)], dtype=np.float64
            )
            for side in (0, 1)
        ]
        return WidthGrid(sides[0].reshape(len(points), size), sides[1].reshape(len(points), size), took)

    def own(self, layers: Sequence[Layer]) -> list[float]:
        """Milliseconds of layers in the middle of a model: without what it takes to enter and leave the runtime.

        **Raises:** `PodarError`: the table of another device lacks one.
        """
        self.learn(layers)
        return [own_time(layer, self.table.layers) for layer in layers]

    def learn(self, layers: Iterable[Layer]) -> None:
        """Measure those layers that the table does not have.

        **Raises:** `PodarError`: the table is of another device, so that they cannot be.
        """
        missing = {name: own for name, own in files_for(layers).items() if name not in self.table.layers}
        if not missing:
            return
        if self.serving is None or self._dense is None:
            raise PodarError(
                f"the table of {self.table.processor} lacks {len(missing)} layers of this model, such as "
                f"{next(iter(missing))!r}: profile this model there, at this input size (podar profile MODEL)"
            )
        self.table.layers |= self.serving.time_layers(missing, self._dense, self.table.layers[self._whole])
        self.table.keep()


def liked(runtime: str, here: bool) -> int:
    """The multiple of channels at which a runtime is fastest: 8 where the runtime does not declare one.

    Those that like 8 compute blocks of as many channels as a vector holds: 16 with AVX-512, where a width that is no
    multiple of 16 is not only padded, but brought to another layout and back for every sum and pooling.
    """
    widths = checked_runtime(runtime).widths
    widths = widths if widths > 1 else 8
    return 16 if widths == 8 and here and "avx512f" in processor().instruction_sets else widths


def grid_widths(place: PlacedLayer, shares: Sequence[float]) -> tuple[list[int], list[int]]:
    """The rising widths at which each side of a layer is measured; only its own where that side cannot be cut."""
    layer, into, out_of = place.layer, place.into >= 0, place.out_of >= 0

    def side(width: int, cut: bool) -> list[int]:
        if not cut:
            return [width]
        multiple = VECTOR if width >= 2 * VECTOR else VECTOR // 2
        return sorted({min(width, max(1, -(-round(width * share) // multiple) * multiple)) for share in shares})

    if layer.depthwise:
        return [layer.channels], side(layer.outputs, out_of)
    return side(layer.channels, into), side(layer.outputs, out_of)


def files_for(layers: Iterable[Layer]) -> dict[str, tuple[Layer, int]]:
    """What has to be timed for these layers, by name: the layers, and for each shape what entering costs."""
    found: dict[str, tuple[Layer, int]] = {}
    for times, name in ((1, "{}"), (2, "2 times {}")):
        found[name.format(_through(()))] = (_through(()), times)
    for layer in layers:
        found[str(layer)] = (layer, 1)
        for shape in (layer.input, layer.output):
            through = _through(shape)
            found[str(through)] = (through, 1)
            found[f"2 times {through}"] = (through, 2)
    return found


def _through(shape: tuple[int, ...]) -> Layer:
    """The cheapest layer that returns a tensor of its input's shape: timed alone and twice in a row it shows what
    entering and leaving the runtime cost."""
    rank = len(shape) - 2
    if rank < 1:
        return Layer("linear", (1, 8), 8)
    ones = (1,) * rank
    return Layer("conv", shape, shape[1], (3,) * rank, ones, ones, ones, (0,) * rank, shape[1])


def own_time(layer: Layer, took: Mapping[str, float]) -> float:
    """Milliseconds of a layer in the middle of a model, worked out from the layer and its shapes timed alone."""
    whole = took[str(layer)]
    borders = sum(_border(_through(shape), took) for shape in (layer.input, layer.output)) / 2
    return max(LEAST * whole, whole - borders)


def _border(through: Layer, took: Mapping[str, float]) -> float:
    """Milliseconds to enter the runtime with a shape and to leave it with the same: no less than an empty run."""
    once, least = took[str(through)], run_alone(took)
    return min(once, max(least, 2 * once - took[f"2 times {through}"]))


def run_alone(took: Mapping[str, float]) -> float:
    """Milliseconds of a run that computes next to nothing; 0 where none was timed."""
    name = str(_through(()))
    return max(0.0, 2 * took[name] - took[f"2 times {name}"]) if name in took else 0.0


def moving(layers: Layers, took: Mapping[str, float]) -> float:
    """Milliseconds to read and write one byte in this runtime, known from tensors that enter and leave it."""
    shapes = {place.layer.output for place in layers.places}
    rates = [_border(_through(shape), took) / (8 * int(np.prod(shape))) for shape in shapes if len(shape) > 2]
    return float(np.median(rates)) if rates else 0.0


def whole_name(layers: Layers) -> str:
    """What a table calls the whole model: models of the same layers share it."""
    text = "\n".join(str(place.layer) for place in layers.places)
    return f"model {hashlib.sha256(text.encode()).hexdigest()[:16]}"
