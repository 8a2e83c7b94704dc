"""Operators that compute nothing: concatenations, parts, slices, enlargements, views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from podar.engine.lowering import Unsupported
from podar.engine.onnx_lowering import OnnxLowering, attributes, rule, rule_of_parts

if TYPE_CHECKING:
    from podar_native import Value


@rule("Concat")
def concat(to: OnnxLowering, node: Any) -> Value:
    """A concatenation of channels."""
    rank = len(to.shape(node.output[0]))
    if attributes(node)["axis"] % rank != 1 or to.is_rows(node.output[0]):
        raise Unsupported("a concatenation along another axis than the channels")
    return to.network.concat([to.value(n) for n in node.input])


@rule_of_parts("Split")
def split(to: OnnxLowering, node: Any, name: str) -> Value:
    """One part of a split: a view."""
    rank = len(to.shape(node.input[0]))
    if attributes(node).get("axis", 0) % rank != 1 or to.is_rows(node.input[0]):
        raise Unsupported("a split along another axis than the channels")
    x = to.value(node.input[0])
    first = sum(to.shape(n)[1] for n in list(node.output)[: list(node.output).index(name)])
    return to.network.channels(x, first, first + to.shape(name)[1])


@rule("Slice")
def channels(to: OnnxLowering, node: Any) -> Value:
    """A slice of channels."""
    before, after = to.shape(node.input[0]), to.shape(node.output[0])
    starts = to.constant(node.input[1]).tolist()
    axes = to.constant(node.input[3]).tolist() if len(node.input) > 3 and node.input[3] else list(range(len(starts)))
    steps = to.constant(node.input[4]).tolist() if len(node.input) > 4 and node.input[4] else [1] * len(starts)
    if to.is_rows(node.input[0]) or any(s != 1 for s in steps) or before[:1] + before[2:] != after[:1] + after[2:]:
        raise Unsupported("a slice along another axis than the channels")
    first = 0
    for start, axis in zip(starts, axes):
        if axis % len(before) == 1:
            first = min(start + before[1] if start < 0 else start, before[1])
    return to.network.channels(to.value(node.input[0]), max(first, 0), max(first, 0) + after[1])


@rule("Resize")
def resize(to: OnnxLowering, node: Any) -> Value:
    """An enlargement by whole factors that repeats pixels."""
    given = attributes(node)
    before, after = to.shape(node.input[0]), to.shape(node.output[0])
    if len(before) != 4 or given.get("mode", b"nearest") != b"nearest":
        raise Unsupported("an enlargement that blends neighbours")
    if after[2] % before[2] or after[3] % before[3] or before[:2] != after[:2]:
        raise Unsupported("an enlargement by no whole factor")
    # Whole factors with these settings repeat every pixel.
    places = given.get("coordinate_transformation_mode", b"half_pixel")
    rounding = given.get("nearest_mode", b"round_prefer_floor")
    if (places, rounding) != (b"asymmetric", b"floor") and not (
        places == b"half_pixel" and rounding.startswith(b"round")
    ):
        raise Unsupported("an enlargement that shifts pixels")
    return to.network.upsample(to.value(node.input[0]), (after[2] // before[2], after[3] // before[3]))


@rule("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def view(to: OnnxLowering, node: Any) -> Value:
    """A view that keeps one number a channel, or of a sequence with an axis of one."""
    before, after = to.shape(node.input[0]), to.shape(node.output[0])
    if before == after:
        return to.value(node.input[0])
    if to.is_rows(node.input[0]) or to.is_rows(node.output[0]):
        raise Unsupported("a view of a sequence")
    # Only what keeps one number a channel, [N, C, 1, 1] and [N, C], or a sequence: [N, C, 1, L] and [N, C, L].
    one_each = int(np.prod(before[2:])) == 1 and int(np.prod(after[2:])) == 1
    a_sequence = before[2:] in ((1, *after[2:]), after[3:]) and (before[2:3] == (1,) or after[2:3] == (1,))
    if before[:2] != after[:2] or not (one_each or a_sequence):
        raise Unsupported("a view that mixes channels and positions")
    return to.value(node.input[0])


@rule("Identity", "Dropout")
def same(to: OnnxLowering, node: Any) -> Value:
    """What gives its input back."""
    return to.value(node.input[0])
