"""Criteria that need data and a loss: first-order Taylor expansion."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from podar.criteria.registry import criterion
from podar.errors import PodarError


@criterion("taylor")
def taylor(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """|weight × gradient|: the first-order change of the loss when a weight goes (Molchanov et al., 2019).

    Args:
        data: an iterable of (inputs, targets) batches; up to 32 are used.
        loss: `loss(outputs, targets)`; cross entropy when None.

    Raises:
        PodarError: no data, or data that are not (inputs, targets) pairs.
    """
    params = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    total = {n: torch.zeros_like(p) for n, p in params.items()}
    state = {n: (p.requires_grad, p.grad) for n, p in params.items()}
    modes = [(m, m.training) for m in model.modules()]
    batches = 0
    try:
        for m, _ in modes:
            m.training = False
        for p in params.values():
            p.requires_grad_(True)
        for inputs, targets in batches_of(data, "taylor"):
            device = next(iter(params.values())).device
            for p in params.values():
                p.grad = None
            with torch.enable_grad():
                outputs = model(**inputs) if isinstance(inputs, dict) else model(inputs.to(device))
                outputs = getattr(outputs, "logits", outputs)
                value = (loss or functional.cross_entropy)(outputs, targets.to(device))
                value.backward()
            for n, p in params.items():
                if p.grad is not None:
                    total[n] += (p.detach() * p.grad).abs()
            batches += 1
    finally:
        for n, p in params.items():
            p.requires_grad_(state[n][0])
            p.grad = state[n][1]
        for m, mode in modes:
            m.training = mode
    if not batches:
        raise PodarError("importance 'taylor' got data without a single batch; give some (inputs, targets)")
    return total


def batches_of(data: Any, name: str, limit: int = 32) -> Iterator[tuple[Any, Tensor]]:
    """Up to `limit` (inputs, targets) batches from an iterable of batches or a map-style data set of samples."""
    if data is None:
        raise PodarError(f"importance {name!r} needs data: pass data=, batches of (inputs, targets), and loss=")
    if hasattr(data, "train"):
        data = data.train
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (list, tuple)):
        data = torch.utils.data.DataLoader(data, batch_size=64)
    for k, batch in enumerate(data):
        if k == limit:
            return
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise PodarError(f"importance {name!r} needs (inputs, targets), the data give {type(batch).__name__}")
        yield batch[0], batch[1]
