"""Operators that shuffle channels, among themselves or with the places of a picture."""

# pyright: strict, reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import numpy as np
from torch import Tensor

from podar.graph.operators.register import FIRST, operator
from podar.graph.operators.tracer import Tracer


@operator("pixel_shuffle", zero=FIRST, scales=FIRST)
def pixel_shuffle(tracer: Tracer, out: Tensor, x: Tensor, factor: int) -> None:
    """r² channels become r × r places of one channel: they go together."""
    channel = x.dim() - 3
    ids = tracer.axis(x, channel)
    blocks = [b for b in tracer.blocks(x) if max(b[0]) < channel]
    if ids is not None:
        square = ids.reshape(-1, factor * factor)
        tracer.labels.equal(square, np.broadcast_to(square[:, :1], square.shape))
        if len(square) > 1:
            blocks.append(((channel,), np.ascontiguousarray(square[:, 0])))
    tracer.put(out, tuple(blocks), tracer.mark(x).zero)


@operator("pixel_unshuffle", zero=FIRST, scales=FIRST)
def pixel_unshuffle(tracer: Tracer, out: Tensor, x: Tensor, factor: int) -> None:
    """r × r places of one channel become r² channels, which go with it."""
    channel = x.dim() - 3
    ids = tracer.axis(x, channel)
    blocks = [b for b in tracer.blocks(x) if max(b[0]) < channel]
    if ids is not None:
        blocks.append(((channel,), np.repeat(ids, factor * factor)))
    tracer.put(out, tuple(blocks), tracer.mark(x).zero)


@operator("channel_shuffle native_channel_shuffle", zero=FIRST, scales=FIRST)
def channel_shuffle(tracer: Tracer, out: Tensor, x: Tensor, groups: int) -> None:
    """The channels (g, c) become (c, g): the j-th channels of all groups go together."""
    ids = tracer.axis(x, 1)
    if ids is None:
        tracer.put(out, tracer.blocks(x), tracer.mark(x).zero)
        return
    grid = ids.reshape(groups, -1)
    tracer.labels.equal(grid, np.broadcast_to(grid[:1], grid.shape))
    tracer.balanced(ids, groups)
    shuffled = np.ascontiguousarray(grid.T).ravel()
    rest = [b for b in tracer.blocks(x) if 1 not in b[0]]
    tracer.put(out, tuple(sorted([*rest, ((1,), shuffled)], key=lambda b: b[0])), tracer.mark(x).zero)
