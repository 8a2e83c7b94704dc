"""First-order Taylor expansion of the loss."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from podar.criteria.calibration import labelled_batches, loss_of, scoring
from podar.criteria.register import criterion


@criterion("taylor", needs=("data",))
def taylor(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """|weight × gradient|: the first-order change of the loss when a weight goes (Molchanov et al., 2019).

    **Arguments:**

    - `data`: an iterable of (inputs, targets) batches; up to 32 are used, and what each gives is added up.
    - `loss`: `loss(outputs, targets)`; cross entropy when None.

    **Raises:** `PodarError`: no data, or data that do not fit the model.
    """
    with scoring(model) as parameters:
        total = {n: torch.zeros_like(p) for n, p in parameters.items()}
        for batch in labelled_batches(data, "taylor"):
            for p in parameters.values():
                p.grad = None
            loss_of(model, batch, loss, "taylor").backward()
            for n, p in parameters.items():
                if p.grad is not None:
                    total[n] += (p.detach() * p.grad).abs()
        return total
