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
    """The lists of one convolution over `planes` (its input, or its input's phases)."""
    out_channels, per_group = weight.shape[:2]
    rows = choice.rows
    if groups > 1 and out_channels // groups % rows:
        raise ValueError(f"{rows} rows a block do not divide the {out_channels // groups} channels of a group.")
    blocks = -(-out_channels // rows)
    padded = np.zeros((blocks * rows, *weight.shape[1:]), np.float32)
    padded[:out_channels] = weight
    by_block = padded.reshape(blocks, rows, *weight.shape[1:])
    block, channel, ky, kx = np.nonzero((by_block != 0).any(axis=1))
    values = by_block[block, :, channel, ky, kx]
    channel = channel + block * rows // (out_channels // groups) * per_group
    shift = where.shift[ky, kx]
    offsets = (channel * where.phases + where.phase[ky, kx]) * planes.plane + shift
    step = choice.input_block or per_group * groups
    input_blocks = max(1, -(-per_group * groups // step))
    key = channel // step * blocks + block
    order = np.lexsort((offsets, key))
    counts = np.bincount(key, minlength=input_blocks * blocks)
    ends = np.concatenate([[0], np.cumsum(counts)])
    starts = np.empty((input_blocks, blocks + 1), np.int32)
    for i in range(input_blocks):
        starts[i] = ends[i * blocks : (i + 1) * blocks + 1]
    padded_bias = np.zeros(blocks * rows, np.float32)
    padded_bias[:out_channels] = bias
    if len(offsets) and (offsets.max() > 2**31 - 1 or offsets.min() < -(2**31)):
        raise ValueError("a layer's activations are larger than the engine can address.")
    entries = np.empty((len(offsets), rows + 1), np.int32)
    entries[:, :rows] = values[order].astype(np.float32).view(np.int32).reshape(-1, rows)
    entries[:, rows] = offsets[order]
    return Lists(
        starts,
        entries,
        padded_bias,
        max(0, int(shift.max())) if len(shift) else 0,
    )
