"""GraSP: how much the gradient flow suffers when a weight goes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from podar.criteria.calibration import labelled_batches, loss_of, scoring
from podar.criteria.register import criterion


@criterion("grasp", needs=("data",))
def grasp(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """weight × (Hessian · gradient): what would lower the gradient norm by going stays (Wang et al., ICLR 2020).

    Scores may be negative: removing such a weight raises the gradient norm, so they go first. Meant for networks at
    their initialisation.

    **Arguments:**

    - `data`: an iterable of (inputs, targets) batches; up to 8 are used, each for two backward passes and their graph.
    - `loss`: `loss(outputs, targets)`; cross entropy when None.

    **Raises:** `PodarError`: no data, or data that do not fit the model.
    """
    # Fused attention and cuDNN's recurrent layers have no second derivative.
    plain = sdpa_kernel(SDPBackend.MATH), torch.backends.cudnn.flags(enabled=False)
    with scoring(model) as parameters, plain[0], plain[1]:
        names, tensors = list(parameters), list(parameters.values())
        batches = list(labelled_batches(data, "grasp", limit=8))
        gradient = [torch.zeros_like(p) for p in tensors]
        for batch in batches:
            found = torch.autograd.grad(loss_of(model, batch, loss, "grasp"), tensors, allow_unused=True)
            for total, g in zip(gradient, found):
                if g is not None:
                    total += g
        product = [torch.zeros_like(p) for p in tensors]
        for batch in batches:
            value = loss_of(model, batch, loss, "grasp")
            found = torch.autograd.grad(value, tensors, create_graph=True, allow_unused=True)
            flow = torch.stack([(g * fixed).sum() for g, fixed in zip(found, gradient) if g is not None]).sum()
            for total, g in zip(product, torch.autograd.grad(flow, tensors, allow_unused=True)):
                if g is not None:
                    total += g
        return {n: (p.detach() * hg) for n, p, hg in zip(names, tensors, product)}
