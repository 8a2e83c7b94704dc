"""Weights as the kernels read them: for each block of output channels a list of (weights, offset)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from podar_native.layout import Planes


@dataclass(frozen=True)
class Choice:
    """How one layer is computed: output channels that share a list, input channels a pass (0: all), vectors a tile.

    `rows` (1, 4 or 8) above 1 stores the zeros of a block too: right for dense layers and for block patterns.
    """

    rows: int = 1
    input_block: int = 0
    tile: int = 0


@dataclass(frozen=True)
class Lists:
    """`starts[input block, output block]` index `entries`; an entry's words are a float32 for each row of the block and
    an int32 offset; `bias` is [blocks · rows]."""

    starts: np.ndarray
    entries: np.ndarray
    bias: np.ndarray
    reach: int


@dataclass(frozen=True)
class Taps:
    """Where a kernel's taps lie in the input's planes: `[kernel height, kernel width]` each.

    - `phase`: which of `phases` planes of a channel; 0 where there is no stride.
    - `shift`: rows · stride + columns from the output's position.
    """

    phase: np.ndarray
    shift: np.ndarray
    phases: int


def taps(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    dilation: tuple[int, int],
    row_stride: int,
    kept: list[int],
) -> Taps:
    """`kept`: the phases (y · stride + x) that the input was split into, in order."""
    y = np.arange(kernel[0]) * dilation[0] - padding[0]
    x = np.arange(kernel[1]) * dilation[1] - padding[1]
    phase = (y % stride[0])[:, None] * stride[1] + (x % stride[1])[None]
    shift = (y // stride[0])[:, None] * row_stride + (x // stride[1])[None]
    place = np.full(stride[0] * stride[1], -1)
    place[kept] = np.arange(len(kept))
    return Taps(place[phase], shift, len(kept))


def make_lists(weight: np.ndarray, bias: np.ndarray, groups: int, where: Taps, planes: Planes, choice: Choice) -> Lists:
    """The lists of one convolution over `planes` (its input, or its input's phases).

    Input blocks count the channels that an output reads: of a grouped convolution those of its group.
    """
    out_channels, per_group, *kernel = weight.shape
    rows, area = choice.rows, kernel[0] * kernel[1]
    if groups > 1 and out_channels // groups % rows:
        raise ValueError(f"{rows} rows a block do not divide the {out_channels // groups} channels of a group.")
    blocks = -(-out_channels // rows)
    step = min(choice.input_block or per_group, per_group)
    input_blocks = -(-per_group // step)
    # In the order of the lists, so that none needs sorting: input blocks, blocks, rows, channels and taps.
    padded = np.zeros((blocks * rows, input_blocks * step, area), np.float32)
    padded[:out_channels, :per_group] = weight.reshape(out_channels, per_group, area)
    ordered = np.ascontiguousarray(
        padded.reshape(blocks, rows, input_blocks, step * area).transpose(2, 0, 3, 1)
    )  # [input blocks, blocks, channels and taps, rows]
    kept = ordered.any(axis=3) if rows > 1 else ordered[..., 0] != 0
    counts = np.count_nonzero(kept, axis=2)
    ends = np.concatenate([[0], np.cumsum(counts)])
    starts = np.empty((input_blocks, blocks + 1), np.int32)
    for i in range(input_blocks):
        starts[i] = ends[i * blocks : (i + 1) * blocks + 1]

    channel = np.arange(input_blocks * step)[:, None]
    offset = (channel * where.phases + where.phase.reshape(-1)) * planes.plane + where.shift.reshape(-1)
    offset = offset.reshape(input_blocks, 1, step * area)
    if groups > 1:
        group = np.arange(blocks)[:, None] * rows // (out_channels // groups)
        offset = offset + group * per_group * where.phases * planes.plane
    if offset.max() > 2**31 - 1 or offset.min() < -(2**31):
        raise ValueError("a layer's activations are larger than the engine can address.")
    entries = np.empty((int(ends[-1]), rows + 1), np.int32)
    entries[:, :rows] = ordered.view(np.int32)[kept]
    entries[:, rows] = np.broadcast_to(offset.astype(np.int32), kept.shape)[kept]
    padded_bias = np.zeros(blocks * rows, np.float32)
    padded_bias[:out_channels] = bias
    return Lists(starts, entries, padded_bias, max(0, int(where.shift.max())))
