"""Accuracy of a classifier, and where its logits are among its outputs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from podar.data import Split
from podar.errors import PodarError
from podar.modes import modes_put_back

BATCH = 250


def logits_of(outputs: Any) -> Tensor:
    """The logits [N, classes] among a model's outputs: a tensor, a mapping or object with `logits`, or a tuple's first.

    **Raises:** `PodarError` where there are none.
    """
    if isinstance(outputs, Mapping):
        outputs = outputs.get("logits")
    elif isinstance(outputs, (tuple, list)) and outputs:
        return logits_of(outputs[0])
    outputs = getattr(outputs, "logits", outputs)
    if not isinstance(outputs, Tensor) or outputs.dim() != 2:
        found = f"of shape {tuple(outputs.shape)}" if isinstance(outputs, Tensor) else type(outputs).__name__
        raise PodarError(f"the model is no classifier: its output is {found}, not logits (batch, classes).")
    return outputs


@torch.no_grad()
def accuracy(model: nn.Module, data: Split | Iterable[tuple[Tensor, Tensor]]) -> float:
    """The fraction of pictures whose largest logit is that of their class.

    **Arguments:** `model`: a classifier; it is run in eval mode and left in the mode it was in. `data`: a split, or
    batches of (inputs, labels).

    **Raises:** `PodarError` where the outputs hold no logits, or `data` is empty.

    ```python
    accuracy(model, podar.data.load("fashion-mnist-demo").test)
    ```
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    right = count = 0
    with modes_put_back(model):
        model.eval()
        for inputs, labels in _batches(data, device):
            best = logits_of(model(inputs.to(device))).argmax(dim=1)
            right += int((best == labels.to(device)).sum())
            count += len(labels)
    if not count:
        raise PodarError("the data hold no pictures, so there is no accuracy to measure.")
    return right / count


def _batches(data: Any, device: torch.device) -> Iterator[tuple[Tensor, Tensor]]:
    if isinstance(data, Split):
        return (data.batch(places, device=device) for places in torch.arange(len(data)).split(BATCH))
    return iter(data)
