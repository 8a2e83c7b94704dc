"""Calibration passes that criteria share: batches, losses and gradients of a model that is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from podar.errors import PodarError, first_line
from podar.model.batches import Batch, labelled, run
from podar.model.modes import modes_put_back
from podar.model.outputs import main_output
from podar.model.tensors import tensors_in, to_device


def labelled_batches(data: Any, name: str, limit: int = 32) -> Iterator[Batch]:
    """Up to `limit` batches of inputs and targets.

    **Raises:** `PodarError`: no data, no batch, no (inputs, targets) pairs, or inputs that are not finite.
    """
    return labelled(data, f"importance {name!r}", limit)


def forward(model: nn.Module, inputs: Any, name: str) -> Any:
    """Run the model on one batch, on the model's device, and say so in one sentence when the batch does not fit.

    **Raises:** `PodarError`: the model does not run on inputs of this shape.
    """
    try:
        return run(model, inputs)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, PodarError):
            raise
        shapes = ", ".join(str(tuple(tensor.shape)) for tensor in tensors_in(inputs)) or type(inputs).__name__
        reason = first_line(error)
        raise PodarError(
            f"the model does not run on the calibration data for {name}, shape {shapes}: {reason}"
        ) from error


@contextmanager
def scoring(model: nn.Module, grad: bool = True) -> Iterator[dict[str, nn.Parameter]]:
    """Eval mode with fresh gradients; modes, `requires_grad` and gradients are put back at the end.

    **Yields:** The floating-point parameters by name.
    """
    parameters = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
    before = {n: (p.requires_grad, p.grad) for n, p in parameters.items()}
    with modes_put_back(model):
        for module in model.modules():
            module.training = False
        try:
            for parameter in parameters.values():
                parameter.requires_grad_(grad)
                parameter.grad = None
            with torch.set_grad_enabled(grad):
                yield parameters
        finally:
            for n, parameter in parameters.items():
                parameter.requires_grad_(before[n][0])
                parameter.grad = before[n][1]


def loss_of(model: nn.Module, batch: Batch, loss: Callable[[Any, Any], Tensor] | None, name: str) -> Tensor:
    """The loss of one batch: `loss(outputs, targets)`; cross entropy of the logits when None.

    A `loss` of the user's gets the outputs as the model returns them, but for objects with `logits`, of which it gets
    those, and the targets on the device of the outputs.
    """
    outputs = forward(model, batch.inputs, name)
    given = main_output(outputs) if loss is None else getattr(outputs, "logits", outputs)
    device = next((tensor.device for tensor in tensors_in(given)), torch.device("cpu"))
    targets = to_device(batch.targets, device)
    if loss is None and not isinstance(targets, Tensor):
        raise PodarError(
            f"importance {name!r}: targets of the kind {type(targets).__name__} have no cross entropy: give loss=, a "
            "function of (outputs, targets)"
        )
    try:
        return (loss or functional.cross_entropy)(given, targets)
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, PodarError):
            raise
        reason = first_line(error)
        raise PodarError(
            f"importance {name!r}: the loss cannot be computed from the model's output ({reason})"
        ) from error
