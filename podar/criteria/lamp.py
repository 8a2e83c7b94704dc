"""LAMP: magnitude made comparable between layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from podar.criteria.register import criterion
from podar.model.members import Members


@criterion("lamp")
def lamp(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """w² over the sum of all squares in the tensor that are not smaller (Lee et al., ICLR 2021).

    Ranked globally it gives every layer a sparsity of its own without anything to tune. Vectors (biases, norm scales)
    are not scored.
    """
    scores = {}
    for name, p in Members(model).floating.items():
        if p.dim() < 2:
            continue
        squares = p.flatten().float().square()
        ordered, order = squares.sort()
        # Summed from the largest down, in double: 10⁸ float32 squares lose the small ones.
        remaining = ordered.flip(0).cumsum(0, dtype=torch.float64).flip(0)
        values = (ordered / remaining.clamp_min(torch.finfo(torch.float64).tiny)).to(squares.dtype)
        scores[name] = torch.empty_like(squares).scatter_(0, order, values).view(p.shape)
    return scores
