"""Batch-norm statistics after a cut: averaged anew over real pictures, nothing else is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from podar.data import Split
from podar.model.batches import inputs_of, run, training_part
from podar.model.modes import modes_put_back

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


@torch.no_grad()
def recalibrate(model: nn.Module, data: Any, *, batches: int = 16, batch_size: int = 128) -> int:
    """Replace the running statistics of every batch norm by their plain average over some training pictures.

    A cut changes what enters a norm, so that its old statistics no longer fit (Li et al., EagleEye, ECCV 2020).

    **Arguments:** `model`: changed in place, its mode kept. `data`: a training split, or
    whatever `podar.model.read` reads; no labels are needed.
    `batches`: how many are read, of `batch_size` each
    where `data` hold single samples.

    **Returns:** The number of norms whose statistics were replaced; 0 where the model has none. Norms that no picture
    reaches in evaluation (a head that only training uses) keep what they had.
    """
    norms = [
        m for m in model.modules() if isinstance(m, NORMS) and m.track_running_stats and m.running_mean is not None
    ]
    if not norms:
        return 0
    device = next(model.parameters()).device
    given = _inputs(model, data, batches, batch_size, device)
    momenta = [norm.momentum for norm in norms]
    buffers = [{name: buffer.clone() for name, buffer in norm.named_buffers()} for norm in norms]
    renewed = 0
    try:
        with modes_put_back(model):
            model.eval()
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative average
                norm.train()
            for inputs in given:
                run(model, inputs)
    finally:
        for norm, momentum, before in zip(norms, momenta, buffers):
            norm.momentum = momentum
            if norm.num_batches_tracked:
                renewed += 1
            else:
                norm.load_state_dict(before, strict=False)
    return renewed


def _inputs(model: nn.Module, data: Any, batches: int, batch_size: int, device: torch.device) -> Iterator[Any]:
    data = training_part(data)
    if isinstance(data, Split):
        order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: batches * batch_size]
        return (data.batch(places, device=device)[0] for places in order.split(batch_size) if len(places) > 1)
    return inputs_of(data, model, "recalibration", limit=batches, batch_size=batch_size)
