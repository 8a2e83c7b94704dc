"""SNIP: connection sensitivity of the summed loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from podar.criteria.calibration import labelled_batches, loss_of, scoring
from podar.criteria.register import criterion


@criterion("snip", needs=("data",))
def snip(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """|weight × gradient of the whole data| (Lee, Ajanthan and Torr, ICLR 2019).

    Unlike "taylor", which adds up |weight × gradient| batch by batch, gradients of opposite sign cancel first.

    **Arguments:**

    - `data`: an iterable of (inputs, targets) batches; up to 32 are used.
    - `loss`: `loss(outputs, targets)`; cross entropy when None.

    **Raises:** `PodarError`: no data, or data that do not fit the model.
    """
    with scoring(model) as parameters:
        for batch in labelled_batches(data, "snip"):
            loss_of(model, batch, loss, "snip").backward()
        return {n: (p.detach() * p.grad).abs() for n, p in parameters.items() if p.grad is not None}
