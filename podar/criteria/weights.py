"""Criteria that look at the weights alone: magnitude, batch-norm scale, random."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from podar.criteria.register import PerParameter, Scores, criterion, generator_for
from podar.model.fast_loops import squared
from podar.model.members import Members


@criterion("magnitude")
def magnitude(model: nn.Module, data: Any = None, loss: Any = None) -> Scores:
    """Squared weights: over a unit's slices they sum to its squared L2 norm (Li et al., 2017; Fang et al., 2023)."""
    return PerParameter(Members(model).floating, squared)


@criterion("magnitude-l1")
def magnitude_l1(model: nn.Module, data: Any = None, loss: Any = None) -> Scores:
    """Absolute weights: summed over a unit's slices they are its L1 norm (Li et al., 2017)."""
    return PerParameter(Members(model).floating, torch.abs)


@criterion("bn-scale")
def bn_scale(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """Absolute batch-norm scales (Network Slimming, Liu et al., 2017).

    A model without batch norm has nothing to score; groups without one are ranked by magnitude among themselves.
    """
    scores = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and module.weight is not None:
            scores[f"{name}.weight" if name else "weight"] = module.weight.detach().abs()
    return scores


@criterion("random")
def random(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """Uniform noise: the control that every other criterion has to beat. Follows `torch.manual_seed`."""
    seed = int(torch.randint(2**62, ()).item())
    return {
        n: torch.rand(p.shape, generator=generator_for(p, seed + k), device=p.device)
        for k, (n, p) in enumerate(Members(model).floating.items())
    }
