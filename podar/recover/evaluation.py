"""Accuracy of a classifier, and where its logits are among its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from podar.data import Split
from podar.errors import PodarError
from podar.model.batches import Batch, labelled, run
from podar.model.modes import modes_put_back
from podar.model.outputs import main_output
from podar.recover.losses import check_targets

BATCH = 250


def logits_of(outputs: Any) -> Tensor:
    """The logits [N, classes] among a model's outputs, wherever they are (`podar.model.main_output`).

    **Raises:** `PodarError` where there are none.
    """
    try:
        found = main_output(outputs)
    except PodarError as error:
        raise PodarError(f"the model is no classifier: {error}") from error
    if found.dim() != 2:
        raise PodarError(
            f"the model is no classifier: its output is of shape {tuple(found.shape)}, not logits (batch, classes)."
        )
    return found


@torch.no_grad()
def accuracy(model: nn.Module, data: Any) -> float:
    """The fraction of pictures whose largest logit is that of their class.

    **Arguments:** `model`: a classifier; it is run in eval mode and left in the mode it was in. `data`: a split, or
    whatever `podar.model.labelled` reads.

    **Raises:** `PodarError` where the outputs hold no logits, or `data` is empty.

    ```python
    accuracy(model, podar.data.load("fashion-mnist-demo").test)
    ```
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    right = count = 0
    with modes_put_back(model):
        model.eval()
        for batch in _batches(data, device):
            best = logits_of(run(model, batch.inputs)).argmax(dim=1)
            right += int((best == batch.targets.to(device)).sum())
            count += len(batch.targets)
    if not count:
        raise PodarError("the data hold no pictures, so there is no accuracy to measure.")
    return right / count


def _batches(data: Any, device: torch.device) -> Iterator[Batch]:
    if isinstance(data, Split):
        if not data.labelled:
            raise PodarError("accuracy needs labels, and these pictures have none.")
        return (Batch(*data.batch(places, device=device)) for places in torch.arange(len(data)).split(BATCH))
    if isinstance(data, (list, tuple)) and not data:
        return iter(())
    return (_with_classes(batch) for batch in labelled(data, "accuracy", batch_size=BATCH))


def _with_classes(batch: Batch) -> Batch:
    """The batch, where its targets are one class number a picture."""
    check_targets(batch.targets, "accuracy")
    if batch.targets.is_floating_point():
        raise PodarError("accuracy needs class numbers as labels, and the data hold distributions over classes.")
    return batch
