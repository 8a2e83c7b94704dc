"""The last good step of a training: where the loss is no longer finite, the model goes back to it."""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from podar.errors import PodarError
from podar.model.batches import Batch
from podar.model.tensors import tensors_in


class GoodSteps:
    """A copy of the model as it was when its loss and gradient were last seen to be finite.

    `every_step`: the loss is looked at in every step. With several processes, or on a GPU, looks are rarer: each waits.
    """

    def __init__(self, model: nn.Module, accelerator: Accelerator, step: int) -> None:
        self.model, self.accelerator = model, accelerator
        self.every_step = accelerator.num_processes == 1 and accelerator.device.type == "cpu"
        self.first = self.step = step  # the copy was made before this step, counted from 0
        self.copy = {name: value.clone() for name, value in self._tensors().items()}

    def look(self, epoch: int, step: int, loss: Tensor, norm: Any, batches: list[Batch], rates: list[float]) -> None:
        """Keep the model, before a step changes it, where all processes have a finite loss and gradient.

        **Raises:** `PodarError` where one has not; the model is then as it was.
        """
        value, length = float(loss), 0.0 if norm is None else float(norm)
        if self.accelerator.scaler is not None:
            length = 0.0  # fp16: a step with gradients that are too large is left out, and the scale is lowered
        finite = torch.tensor(float(math.isfinite(value) and math.isfinite(length)), device=self.accelerator.device)
        if self.accelerator.num_processes > 1:
            finite = self.accelerator.gather(finite[None]).min()  # pyright: ignore[reportAttributeAccessIssue]
        if not float(finite):
            self._go_back()
            raise PodarError(self._sentence(epoch, value, batches, rates))
        self.step = step
        for name, tensor in self._tensors().items():
            self.copy[name].copy_(tensor)

    def _tensors(self) -> dict[str, Tensor]:
        return {name: value for name, value in self.model.state_dict().items() if isinstance(value, Tensor)}

    def _go_back(self) -> None:
        with torch.no_grad():
            for name, tensor in self._tensors().items():
                tensor.copy_(self.copy[name])

    def _sentence(self, epoch: int, loss: float, batches: list[Batch], rates: list[float]) -> str:
        targets = [tensor for batch in batches for tensor in tensors_in(batch.targets) if tensor.is_floating_point()]
        what = f"the loss is {loss}" if not math.isfinite(loss) else "the gradient is not finite"
        advice = f"lower the learning rate (it was {max(rates):g})"
        if not all(bool(torch.isfinite(tensor).all()) for tensor in targets):
            advice = "its targets hold NaN or infinite values: drop those samples"
        first = "before the training" if self.first == 0 else "in the checkpoint"
        when = first if self.step == self.first else f"before step {self.step + 1}, its last good one"
        return f"training diverged in epoch {epoch}: {what}; {advice}. The model is as it was {when}."
