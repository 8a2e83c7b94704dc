"""Readings inside recurrent layers: each of their weights reads all steps of all sequences at once.

A layer of torch's (LSTM, GRU, RNN) is carried out layer by layer. Its input weights read the sequence, its state
weights the states of the step before, which the layer gave with the weights as they were.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}

ADDED = {"lstm": 4, "gru": 2, "rnn_tanh": 1, "rnn_relu": 1}
"""The number of gates that add what input and state give. The last gate of a GRU multiplies them."""

Met = Callable[[Tensor, Tensor, Tensor | None, Tensor | None], None]
"""`met(weight, rows, bias, beside)`: a weight is about to read these rows; `beside` is what else is added to it."""


class Recurrence(TorchFunctionMode):
    """While it is active, recurrent layers show each of their weights to `met`; `carry_out` runs what computes one."""

    def __init__(self, met: Met, carry_out: Callable[[Callable[[], Any], Any, Sequence[Any]], Any]) -> None:
        super().__init__()
        self.met, self.carry_out = met, carry_out

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        if name in GATES and not kwargs and len(args) >= 9:
            return self.carry_out(lambda: _layers(self, func, name, args), func, args)
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class _Sequence:
    """The sequences that a layer reads: (batch, time, …), (time, batch, …), or packed steps with their batch sizes."""

    x: Tensor
    counts: Tensor | None
    batch_first: bool

    def rows(self, x: Tensor) -> Tensor:
        """The batch first, so that whole sequences can be told apart; packed rows as they are."""
        return x if self.counts is not None or self.batch_first or x.dim() < 3 else x.transpose(0, 1)

    def before(self, y: Tensor, start: Tensor, backwards: bool) -> Tensor:
        """The state that each step began with, given the outputs of all steps."""
        if self.counts is None:
            time = 1 if self.batch_first and y.dim() > 2 else 0
            first = start.unsqueeze(time) if y.dim() > 2 else start.reshape(1, -1)
            n = y.shape[time]
            ends = (y.narrow(time, 1, n - 1), first) if backwards else (first, y.narrow(time, 0, n - 1))
            return torch.cat(ends, time)
        parts = y.split(self.counts.tolist())
        if not backwards:
            return torch.cat([start[: len(parts[0])], *(a[: len(b)] for a, b in itertools.pairwise(parts))])
        later = [torch.cat([b, start[len(b) : len(a)]]) for a, b in itertools.pairwise(parts)]
        return torch.cat([*later, start[: len(parts[-1])]])


def _layers(mode: Recurrence, func: Any, name: str, args: Sequence[Any]) -> Any:
    """The layers of a call one after the other, as `func` computes each."""
    packed = isinstance(args[1], Tensor) and args[1].dtype == torch.int64
    if packed:
        x, counts, states, weights, biases, count, _, _, both = args
        carried = _Sequence(x, counts, False)
    else:
        x, states, weights, biases, count, _, _, both, batch_first = args
        carried = _Sequence(x, None, batch_first)
    states = [states] if isinstance(states, Tensor) else list(states)
    directions = 2 if both else 1
    each = len(weights) // (count * directions)
    ends: list[list[Tensor]] = [[] for _ in states]
    for layer in range(count):
        at = layer * directions
        own = list(weights[at * each : (at + directions) * each])
        starts = [s[at : at + directions] for s in states]

        def once(x: Tensor, own: list[Tensor] = own, starts: list[Tensor] = starts) -> Any:
            given = starts[0] if len(starts) == 1 else starts
            last = (own, biases, 1, 0.0, False, both)
            return func(x, carried.counts, given, *last) if packed else func(x, given, *last, carried.batch_first)

        y, *after = _layer(mode, name, carried, once, x, own, starts, each)
        for held, end in zip(ends, after):
            held.append(end)
        x = y
    return (x, *(torch.cat(held) for held in ends))


def _layer(
    mode: Recurrence,
    name: str,
    carried: _Sequence,
    once: Callable[[Tensor], Any],
    x: Tensor,
    own: list[Tensor],
    starts: list[Tensor],
    each: int,
) -> Any:
    """One layer in one direction or both: its input weights are shown, then its state weights, then it is final."""
    directions = [own[k : k + each] for k in range(0, len(own), each)]
    biased = each >= 4
    for weights in directions:
        mode.met(weights[0], carried.rows(x), weights[2] if biased else None, None)
    y = once(x)[0]
    width = directions[0][1].shape[1]  # of the final state that a layer returns
    for k, weights in enumerate(directions):
        states = carried.before(y[..., k * width : (k + 1) * width], starts[0][k], k == 1)
        beside = carried.rows(x) @ weights[0].t()
        beside[..., beside.shape[-1] // GATES[name] * ADDED[name] :] = 0
        mode.met(weights[1], carried.rows(states), weights[3] if biased else None, beside)
    return once(x)
