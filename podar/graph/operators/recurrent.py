"""Recurrent layers and cells, and for sequences that are packed for them: traced whole, as Python calls them.

Unit h of a layer is row h of every gate, in both weights and both biases, and row h of its state. Rows of zeros keep a
state that starts at zero there: sigmoid and tanh of nothing add nothing to it.
"""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators.products import axes_of
from podar.graph.operators.register import operator
from podar.graph.operators.tracer import Tracer

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}
CELLS = {f"{name}_cell": gates for name, gates in GATES.items()}
PROJECTED = (3, 5)
"""Weights of a layer that ends in a projection, without biases and with them: its last is (state, units)."""


def _arguments(given: tuple[Any, ...]) -> tuple[list[Tensor], list[Tensor], int, bool]:
    """States, weights, layers, whether both directions; packed sequences bring lengths."""
    packed = isinstance(given[0], Tensor) and given[0].dtype == torch.int64
    states, weights, _, count, _, _, both = given[1:8] if packed else given[:7]
    return ([states] if isinstance(states, Tensor) else list(states)), list(weights), count, both


def layers_shape(x: Tensor, *given: Any) -> Any:
    states, weights, _, both = _arguments(given)
    if x.shape[-1] != weights[0].shape[1]:
        raise RuntimeError(f"a recurrent layer for {weights[0].shape[1]} inputs got {tuple(x.shape)}")
    width = states[0].shape[-1] * (2 if both else 1)
    return (x.new_empty(*x.shape[:-1], width), *(torch.empty_like(s) for s in states))


def cell_shape(x: Tensor, states: Any, *weights: Tensor | None) -> Any:
    into, back = weights[0], weights[1]
    assert into is not None and back is not None
    held = states if isinstance(states, Tensor) else states[0]
    if x.shape[-1] != into.shape[1] or held.shape[-1] != back.shape[1]:
        raise RuntimeError(
            f"a recurrent cell for {into.shape[1]} inputs and {back.shape[1]} units got {tuple(x.shape)} "
            f"and {tuple(held.shape)}"
        )
    return torch.empty_like(states) if isinstance(states, Tensor) else tuple(torch.empty_like(s) for s in states)


@operator(*GATES, shape=layers_shape, counts=True, whole=True)
def layers(tracer: Tracer, out: Any, x: Tensor, *given: Any) -> None:
    """One layer or several, in one direction or both; the units of all share their states, one tensor for all."""
    states, weights, count, both = _arguments(given)
    directions, gates = (2 if both else 1), GATES[tracer.operator.name]
    each = len(weights) // (count * directions)
    reads = tracer.axis(x, x.dim() - 1)
    zero = all(tracer.mark(s).zero for s in states)
    kept: list[Ids | None] = [None] * len(states)
    for layer in range(count):
        made: list[Ids | None] = []
        for direction in range(directions):
            at = (layer * directions + direction) * each
            own = weights[at : at + each]
            ends = _layer(tracer, reads, own, gates, each in PROJECTED, math.prod(x.shape[:-1]))
            for k, ids in enumerate(ends[: len(states)]):
                kept[k] = ids if kept[k] is None else kept[k]
                tracer.equal(kept[k], ids)
            made.append(ends[0])
        joined = [ids for ids in made if ids is not None]
        reads = np.concatenate(joined) if len(joined) == directions else None
    for state, ids in zip(states, kept):
        tracer.equal(ids, tracer.axis(state, state.dim() - 1))
        for d in range(state.dim() - 1):
            tracer.freeze(tracer.axis(state, d), "layers and sequences of")
    y, *ends = out
    for dims, ids in tracer.blocks(x):
        if x.dim() - 1 not in dims:
            tracer.freeze(ids, "steps and sequences of")
    tracer.put(y, axes_of({y.dim() - 1: reads}), zero)
    for end, ids in zip(ends, kept):
        tracer.put(end, axes_of({end.dim() - 1: ids}), zero)


def _layer(
    tracer: Tracer, reads: Ids | None, own: Sequence[Tensor], gates: int, projected: bool, steps: int
) -> tuple[Ids | None, Ids | None]:
    """Relate the weights of one layer and direction; labels of the state that it hands out, and of its units."""
    into, back, *biases = own
    hidden = into.shape[0] // gates
    state = tracer.axis(back, 1)
    units = state
    if projected:
        *biases, last = biases
        units = tracer.axis(last, 1)
        tracer.equal(state, tracer.axis(last, 0))
        tracer.macs(steps * last.numel(), units, state)
    rows = None if units is None else np.tile(units, gates)
    for w in (into, back, *biases):
        tracer.equal(rows, tracer.axis(w, 0))
    tracer.equal(reads, tracer.axis(into, 1))
    tracer.macs(steps * gates * hidden * into.shape[1], units, reads)
    tracer.macs(steps * gates * hidden * back.shape[1], units, state)
    return state, units


@operator(*CELLS, shape=cell_shape, counts=True, whole=True)
def cell(tracer: Tracer, out: Any, x: Tensor, states: Any, *weights: Tensor | None) -> None:
    """One step of one layer."""
    own = [w for w in weights if w is not None]
    before = [states] if isinstance(states, Tensor) else list(states)
    after = [out] if isinstance(out, Tensor) else list(out)
    last = x.dim() - 1
    ids, _ = _layer(tracer, tracer.axis(x, last), own, CELLS[tracer.operator.name], False, math.prod(x.shape[:-1]))
    for dims, other in tracer.blocks(x):
        if last not in dims:
            tracer.freeze(other, "sequences of")
    for state in before:
        tracer.equal(ids, tracer.axis(state, state.dim() - 1))
    zero = all(tracer.mark(s).zero for s in before)
    for state in after:
        tracer.put(state, axes_of({state.dim() - 1: ids}), zero)


@operator("_pack_padded_sequence", whole=True)
def pack(tracer: Tracer, out: Any, x: Tensor, lengths: Tensor, batch_first: bool) -> None:
    """The steps of all sequences in one axis, as many in each as there are left."""
    for d in (0, 1):
        tracer.freeze(tracer.axis(x, d), "steps and sequences of")
    data, *_ = out
    moved = tuple((tuple(d - 1 for d in dims), ids) for dims, ids in tracer.blocks(x) if min(dims) > 1)
    tracer.put(data, moved, tracer.mark(x).zero)


@operator("_pad_packed_sequence", whole=True)
def pad(tracer: Tracer, out: Any, data: Tensor, sizes: Tensor, batch_first: bool, value: float = 0, *__: Any) -> None:
    """The way back: where a sequence has ended stands a number."""
    tracer.freeze(tracer.axis(data, 0), "steps and sequences of")
    y, *_ = out
    moved = tuple((tuple(d + 1 for d in dims), ids) for dims, ids in tracer.blocks(data) if min(dims) > 0)
    tracer.put(y, moved, tracer.mark(data).zero and value == 0)
