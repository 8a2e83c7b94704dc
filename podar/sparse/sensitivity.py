"""Per-layer sensitivity: how the loss grows as each layer alone is made sparse, and amounts that spread it evenly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.criteria.calibration import labelled_batches, loss_of, scoring
from podar.sparse.layers import Weight
from podar.sparse.patterns import Pattern, mask_of_units
from podar.sparse.scopes import to_whole, unit_count
from podar.sparse.selection import keep_largest

LEVELS = (0.25, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98)


def sensitivities(
    model: nn.Module, weights: list[Weight], units: Mapping[str, Tensor], pattern: Pattern, data: Any, loss: Any = None
) -> dict[str, list[float]]:
    """The rise of the loss with each layer alone at each of `LEVELS`; everything else stays as it is.

    **Arguments:**

    - `units`: {weight name: score of each unit, flat}.
    - `data`: up to 8 (inputs, targets) batches are used.

    **Raises:** `PodarError`: no data, or data that do not fit the model.
    """
    with scoring(model, grad=False):
        batches = list(labelled_batches(data, "sensitivity", limit=8))

        def mean_loss() -> float:
            return float(np.mean([loss_of(model, batch, loss, "sensitivity").item() for batch in batches]))

        base = mean_loss()
        rises = {}
        for weight in weights:
            parameter, scores = weight.parameter, units[weight.name]
            kept_values = parameter.detach().clone()
            try:
                curve = []
                for level in LEVELS:
                    mask = mask_of_units(weight, keep_largest(scores, round(level * len(scores))), pattern)
                    parameter.data = kept_values * mask
                    _refresh(weight)
                    curve.append(mean_loss() - base)
            finally:
                parameter.data = kept_values
                _refresh(weight)
            rises[weight.name] = curve
    return rises


def even_rise(
    rises: Mapping[str, list[float]], weights: list[Weight], amount: float, pattern: Pattern
) -> dict[str, int]:
    """Units to remove from each weight so that every layer alone raises the loss alike and the total is met exactly."""
    units = {w.name: unit_count(w, pattern) for w in weights}
    total = sum(units.values())
    wanted = round(amount * total)
    levels = np.array([0.0, *LEVELS, 1.0])
    curves = {}
    for w in weights:
        rise = np.maximum.accumulate(np.maximum([0.0, *rises[w.name]], 0.0))  # noise must not turn a curve back
        curves[w.name] = np.append(rise, 10 * rise[-1] + 1e-6) + 1e-9 * levels  # an empty layer costs most of all

    def shares(limit: float) -> dict[str, float]:
        return {n: min(float(np.interp(limit, curve, levels)) * units[n], units[n] - 1) for n, curve in curves.items()}

    low, high = 0.0, max(float(c[-1]) for c in curves.values())
    for _ in range(100):
        limit = (low + high) / 2
        if sum(shares(limit).values()) < wanted:
            low = limit
        else:
            high = limit
    return to_whole(shares(low), wanted, {n: max(u - 1, 0) for n, u in units.items()})


def _refresh(weight: Weight) -> None:
    """A masked module keeps the product of weight and mask: compute it anew (forward does, attention's does not)."""
    for module, attribute in weight.places:
        mask = module._buffers.get(f"{attribute}_mask")
        if mask is not None and f"{attribute}_orig" in module._parameters:
            with torch.no_grad():
                setattr(module, attribute, weight.parameter.detach() * mask)
