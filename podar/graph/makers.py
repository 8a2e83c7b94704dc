"""Which parameters make a tensor, so that multiplying them multiplies it: where attention's scale may go."""

# pyright: strict

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor

Makers = tuple[str, ...]
"""Names of parameters; empty where no such set is known."""


class Made(Protocol):
    """What a trace knows of a tensor, as far as this file reads it."""

    hollow: bool
    makers: Makers
    needs: int
    storage: int


AFFINE = {
    "linear": (1, 2),
    "convolution": (1, 2),
    "addmm": (0, 2),
    "batch_norm": (1, 2),
    "native_batch_norm": (1, 2),
    "_native_batch_norm_legit_no_training": (1, 2),
    "_native_batch_norm_legit": (1, 2),
    "cudnn_batch_norm": (1, 2),
    "native_layer_norm": (2, 3),
    "native_group_norm": (1, 2),
    "rms_norm": (2,),
    "_fused_rms_norm": (2,),
}
"""Operators that end in weight and bias, and the places of these among the arguments."""

PRODUCTS = {"mm", "bmm", "matmul", "einsum", "_grouped_mm", "baddbmm"}
"""Products of activations with parameters, on either side."""

SUMS = {"add", "add_", "sub", "sub_", "cat", "stack", "lerp"}
"""Multiplied where all that enters is."""

SCALINGS = {"mul", "mul_", "div", "div_"}
"""Multiplied where one side is and the other one does not hang on it."""

KEEPS = {
    *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "t", "transpose", "unsqueeze", "squeeze"),
    *("swapaxes", "alias", "detach", "contiguous", "clone", "_to_copy", "expand", "repeat", "select", "unbind"),
    *("slice", "narrow", "split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "index_select"),
    *("gather", "index", "_unsafe_index", "unfold", "flip", "roll", "neg", "constant_pad_nd", "im2col", "relu"),
    *("view_as_complex", "view_as_real", "avg_pool2d", "max_pool2d_with_indices", "pixel_shuffle", "pixel_unshuffle"),
    *("lift_fresh", "_conj", "_neg_view", "real", "imag", "mean", "sum"),
}
"""Each value of the result is one of the input's, a sum of them, or zero."""


class Bits:
    """Sets of parameters as bits of an int: which ones a value hangs on, directly or not."""

    def __init__(self) -> None:
        self.of: dict[str, int] = {}

    def add(self, name: str) -> int:
        """The set of one name."""
        return self.of.setdefault(name, 1 << len(self.of))

    def meet(self, names: Makers, needs: int) -> bool:
        """Whether a value that hangs on `needs` hangs on any of the names."""
        return any(self.of[name] & needs for name in names)


def makers(name: str, args: tuple[Any, ...], tensors: list[Tensor], marks: Sequence[Made], bits: Bits) -> Makers:
    """The parameters that make the result of an operator, from what is known of its arguments."""
    if name in KEEPS:
        return marks[0].makers if marks else ()
    if name in AFFINE:
        known = {id(t): m for t, m in zip(tensors, marks)}
        last = [args[k] for k in AFFINE[name] if k < len(args) and isinstance(args[k], Tensor)]
        return _all([known[id(t)] for t in last], last)
    if name in PRODUCTS:
        weights = [m.makers for m in marks if m.storage < 0 and m.makers]
        return weights[0] if len(weights) == 1 else ()
    if name in SUMS:
        return _all(marks, tensors)
    if name in SCALINGS:
        return _of_one(tensors, marks, bits, both=name.startswith("mul"))
    return ()


def _all(marks: Sequence[Made], tensors: list[Tensor]) -> Makers:
    """The makers of everything; zeros have no need of any."""
    found: dict[str, None] = {}
    for mark, tensor in zip(marks, tensors):
        if mark.makers:
            found.update(dict.fromkeys(mark.makers))
        elif mark.hollow or bool(tensor.any()):
            return ()
    return tuple(found)


def _of_one(tensors: list[Tensor], marks: Sequence[Made], bits: Bits, both: bool) -> Makers:
    """The makers of one factor that the other one does not hang on: a parameter along the last axis before others."""
    if len(marks) < 2:  # numbers alone: torch.div(x.size(1), 2)
        return marks[0].makers if marks else ()
    sides = [(0, 1), (1, 0)] if both else [(0, 1)]
    free = [one for one, other in sides if marks[one].makers and not bits.meet(marks[one].makers, marks[other].needs)]
    own = [one for one in free if marks[one].storage < 0]
    along = [one for one in own if tensors[one].shape[-1:] > (1,)]
    chosen = along or [one for one in free if one not in own]
    return marks[chosen[0]].makers if chosen else ()
