"""Parity: whether an exported file computes what the model computes, on real inputs, and where it does not."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Below this magnitude an output's differences are judged against it instead of against the output itself: logits that
# nearly cancel out carry the rounding of the larger numbers they came from.
_FLOOR = 1e-3


@dataclass(frozen=True)
class Difference:
    """The largest difference found, relative to the largest magnitude of that output, and where it lies in words."""

    relative: float
    where: str


NONE = Difference(0.0, "nowhere")


def largest(expected: Sequence[Tensor], got: Sequence[Tensor], names: Sequence[str]) -> Difference:
    """The largest difference between two lists of outputs.

    Of each output, `max |got - expected| / max(|expected|.max(), 0.001)`; infinite where shapes or types differ, where
    only one is NaN, and where whole numbers or truth values differ at all.
    """
    worst = NONE
    for name, want, have in zip(names, expected, got):
        found = _of_one(name, want, have)
        if found.relative > worst.relative:
            worst = found
    return worst


def tolerance_for(tensors: Sequence[Tensor]) -> float:
    """The default tolerance: what rounding explains in the coarsest type among the tensors."""
    coarsest = {torch.float16: 1e-2, torch.bfloat16: 5e-2}
    return max((coarsest.get(t.dtype, 1e-4) for t in tensors), default=1e-4)


def noisy(tensors: Sequence[Tensor], seed: int = 0) -> tuple[Tensor, ...]:
    """The same inputs with a tenth of their spread added as noise (whole numbers and truth values stay)."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(_noisy(t, generator) if t.is_floating_point() else t for t in tensors)


def _noisy(tensor: Tensor, generator: torch.Generator) -> Tensor:
    values = tensor.float()
    spread = values.std().item() if values.numel() > 1 else 0.0
    noise = torch.randn(values.shape, generator=generator)
    return (values + 0.1 * (spread or 1.0) * noise).to(tensor.dtype)


def _of_one(name: str, want: Tensor, have: Tensor) -> Difference:
    if want.shape != have.shape or want.dtype != have.dtype:
        kinds = [f"{tuple(t.shape)} {str(t.dtype).removeprefix('torch.')}" for t in (have, want)]
        return Difference(math.inf, f"{name} is {kinds[0]} instead of {kinds[1]}")
    if want.numel() == 0:
        return NONE
    if want.is_complex():
        want, have = torch.view_as_real(want), torch.view_as_real(have)
    a, b = want.double().flatten(), have.double().flatten()
    same = (a == b) | (a.isnan() & b.isnan())  # equal infinities are the same, though their difference is NaN
    gap = torch.where(same, 0.0, (a - b).abs()).nan_to_num(nan=math.inf)
    place = int(gap.argmax())
    size = a[a.isfinite()].abs()
    scale = max(size.max().item() if size.numel() else 0.0, _FLOOR)
    relative = gap[place].item() / scale if want.is_floating_point() or bool(same.all()) else math.inf
    index = ", ".join(str(int(i)) for i in torch.unravel_index(torch.tensor(place), want.shape))
    return Difference(relative, f"{name}[{index}] is {b[place].item():.6g} instead of {a[place].item():.6g}")
