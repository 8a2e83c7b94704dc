"""Convolutions, and the patches that some models cut out for them by hand."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from podar.graph.labels import Ids
from podar.graph.operators import shapes
from podar.graph.operators.products import axes_of
from podar.graph.operators.register import FIRST, operator
from podar.graph.operators.tracer import Tracer
from podar.graph.record import Form


@operator("convolution", shape=shapes.convolution, zero=(1, 2), scales=(1, 2), counts=True)
def convolution(
    tracer: Tracer,
    out: Tensor,
    x: Tensor,
    w: Tensor,
    bias: Tensor | None,
    stride: Any,
    padding: Any,
    dilation: Any,
    transposed: bool,
    extra: Any,
    groups: int,
) -> None:
    """Output channels are the filters; input channels meet the weight's second axis, group by group."""
    rank = w.dim() - 2
    channel = x.dim() - rank - 1
    name = tracer.name(w)
    cin = tracer.axis(x, channel)
    per_in, per_out = x.shape[channel] // groups, out.shape[channel] // groups
    fresh = tracer.mark(w).fresh
    if fresh and name is not None:
        _first_use(tracer, w, name, cin, groups, per_in, per_out, transposed)
    if groups == 1:
        inner, outer = _axes(transposed)
        tracer.equal(cin, tracer.axis(w, inner))
        cout = tracer.axis(w, outer)
    elif per_in == 1 or transposed:
        # Depthwise: output o belongs to input o // multiplier. (A grouped transposed weight lists inputs first.)
        cout = _grouped_outputs(tracer, w, groups, transposed)
        if per_in == 1 and per_out >= 1 and cin is not None and cout is not None:
            tracer.labels.equal(cin if per_out == 1 else np.repeat(cin, per_out), cout)
        else:
            _whole_groups(tracer, cin, cout, groups)
        if per_in == 1:
            _count(tracer, cin if cin is not None else cout, groups)
    else:
        if not fresh or cin is None:
            _shared_inputs(tracer, w, cin, groups, name)
        cout = tracer.axis(w, 0)
        for ids in (cin, cout):
            if ids is not None:
                tracer.balanced(ids, groups)
    if bias is not None:
        tracer.meet(cout, bias, 0)
    tracer.freeze_from(w, 2, "kernel positions of")
    tracer.freeze_from(x, channel + 1, "positions of")
    blocks = tuple(b for b in tracer.blocks(x) if max(b[0]) < channel)
    if cout is not None and len(cout) > 1:
        blocks += (((channel,), cout),)
    tracer.put(out, blocks, zero=True)
    kernel = math.prod(w.shape[2:])
    places = math.prod(x.shape[channel + 1 :]) if transposed else math.prod(out.shape[channel + 1 :])
    batch = math.prod(x.shape[:channel])
    count = batch * places * kernel * per_in * out.shape[channel]
    settings = (stride, padding, dilation, transposed, extra, groups)
    form = Form(x.shape, w.shape, settings, cin if per_in > 1 else None, cout)
    tracer.macs(count, cout, cin if per_in > 1 else None, form=form)


def _axes(transposed: bool) -> tuple[int, int]:
    """Which axis of a weight lists inputs, and which outputs."""
    return (0, 1) if transposed else (1, 0)


def _first_use(
    tracer: Tracer, w: Tensor, name: str, cin: Ids | None, groups: int, per_in: int, per_out: int, transposed: bool
) -> None:
    """Give a weight its labels when it is met first: inputs take those of the channels that come in.

    Kernel positions are no candidates: only rows and columns get atoms.
    """
    layout = tracer.record.layouts.setdefault(name, {})
    apart = groups > 1 and per_in > 1 and not transposed and cin is not None  # each group has inputs of its own
    if cin is not None:
        if apart:
            layout[1] = cin.reshape(groups, per_in)
        elif groups == 1:
            layout.setdefault(_axes(transposed)[0], cin)
        elif per_in == per_out == 1:
            layout.setdefault(0, cin)
    rows = [(d, n) for d, n in enumerate(w.shape[: 1 if apart else 2]) if n > 1]
    tracer.put(w, tuple([((d,), tracer.layout(name, d, n)) for d, n in rows]), zero=True)
    tracer.mark(w).hollow = True


def _grouped_outputs(tracer: Tracer, w: Tensor, groups: int, transposed: bool) -> Ids | None:
    if not transposed:
        tracer.freeze(tracer.axis(w, 1), "the inputs of one group at")
        return tracer.axis(w, 0)
    rows = tracer.axis(w, 0)
    tracer.freeze(rows, "grouped transposed") if w.shape[1] > 1 or w.shape[0] != groups else None
    tracer.freeze(tracer.axis(w, 1), "grouped transposed")
    return rows if w.shape[1] == 1 else None


def _whole_groups(tracer: Tracer, cin: Ids | None, cout: Ids | None, groups: int) -> None:
    for ids in (cin, cout):
        tracer.freeze(ids, f"{groups} groups of")


def _shared_inputs(tracer: Tracer, w: Tensor, cin: Ids | None, groups: int, name: str | None) -> None:
    """A weight that is computed or used twice: every group loses the same input positions."""
    layout = tracer.record.layouts.get(name, {}).get(1) if name else None
    if layout is not None and layout.ndim == 2 and cin is not None:
        tracer.labels.equal(layout, cin.reshape(layout.shape))
        return
    inner = tracer.axis(w, 1)
    if cin is None or inner is None:
        tracer.equal(cin, inner if inner is None else np.tile(inner, groups))
        return
    tracer.labels.equal(cin, np.tile(inner, groups))


def _count(tracer: Tracer, ids: Ids | None, groups: int) -> None:
    """A depthwise convolution's `groups` is its number of channels: the attribute behind it follows."""
    if ids is None:
        return
    written: Any = groups
    if tracer.call is not None:
        _, args, kwargs = tracer.call
        written = kwargs.get("groups", args[6] if len(args) > 6 else groups)
    tracer.sizes.grid(ids, (tracer.sizes.expr(written),), tracer.where)


@operator("im2col", zero=FIRST, scales=FIRST)
def im2col(tracer: Tracer, out: Tensor, x: Tensor, kernel: Sequence[int], *_: Any) -> None:
    """Patches: every channel becomes one row for each of its kernel's places."""
    channel = x.dim() - 3
    for d in (channel + 1, channel + 2):
        tracer.freeze(tracer.axis(x, d), "positions of")
    ids = tracer.axis(x, channel)
    rows = None if ids is None else np.repeat(ids, math.prod(kernel))
    lead = {d: tracer.axis(x, d) for d in range(channel)}
    tracer.put(out, axes_of({**lead, channel: rows}), tracer.mark(x).zero)


@operator("col2im", zero=FIRST)
def col2im(tracer: Tracer, out: Tensor, x: Tensor, size: Any, kernel: Sequence[int], *_: Any) -> None:
    """The way back: the rows of one channel go together."""
    row = x.dim() - 2
    tracer.freeze(tracer.axis(x, row + 1), "positions of")
    ids = tracer.axis(x, row)
    channels = None
    if ids is not None:
        grid = ids.reshape(-1, math.prod(kernel))
        channels = np.ascontiguousarray(grid[:, 0])
        tracer.labels.equal(grid, np.broadcast_to(grid[:, :1], grid.shape))
    lead = {d: tracer.axis(x, d) for d in range(row)}
    tracer.put(out, axes_of({**lead, row: channels}), tracer.mark(x).zero)
