"""Diagonal Fisher information: second-order importance from squared gradients of single samples."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from podar.criteria.calibration import labelled_batches, loss_of, scoring
from podar.criteria.register import criterion
from podar.model.batches import rows, size


@criterion("fisher", needs=("data",))
def fisher(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """½ · weight² × mean of squared per-sample gradients: Optimal Brain Damage with the empirical Fisher
    (LeCun et al., 1990; Theis et al., 2018).

    **Arguments:**

    - `data`: an iterable of (inputs, targets) batches; the first 128 samples are used, one backward pass each.
    - `loss`: `loss(outputs, targets)`; cross entropy when None.

    **Raises:** `PodarError`: no data, or data that do not fit the model.
    """
    with scoring(model) as parameters:
        total = {n: torch.zeros_like(p) for n, p in parameters.items()}
        samples = 0
        for batch in labelled_batches(data, "fisher", limit=128):
            count = size(batch.inputs)
            for k in range(count):
                if samples == 128:
                    break
                one = rows(batch, k, k + 1, count)
                for p in parameters.values():
                    p.grad = None
                loss_of(model, one, loss, "fisher").backward()
                for n, p in parameters.items():
                    if p.grad is not None:
                        total[n] += p.grad.square()
                samples += 1
        return {n: 0.5 / samples * p.detach().square() * total[n] for n, p in parameters.items()}
