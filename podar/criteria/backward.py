"""Calibration passes that criteria share: batches, losses and gradients of a model that is left as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from podar.errors import PodarError
from podar.modes import modes_put_back

Batch = tuple[Any, Tensor]


def batches_of(data: Any, name: str, limit: int = 32) -> Iterator[tuple[Any, Tensor]]:
    """Up to `limit` (inputs, targets) batches from an iterable of batches or a map-style data set of samples."""
    if data is None:
        raise PodarError(f"importance {name!r} needs data: pass data=, batches of (inputs, targets), and loss=")
    if hasattr(data, "train"):
        data = data.train
    if hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (list, tuple)):
        data = torch.utils.data.DataLoader(data, batch_size=64)
    _check_iterable(data, f"importance {name!r}")
    for k, batch in enumerate(data):
        if k == limit:
            return
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise PodarError(f"importance {name!r} needs (inputs, targets), the data give {type(batch).__name__}")
        yield batch[0], batch[1]


def labelled_batches(data: Any, name: str, limit: int = 32) -> Iterator[Batch]:
    """Up to `limit` (inputs, targets) batches, refused when an input is NaN or infinite.

    Raises:
        PodarError: no data, no batch, no (inputs, targets) pairs, or inputs that are not finite.
    """
    count = 0
    for inputs, targets in batches_of(data, name, limit):
        check_finite_inputs(inputs, name)
        count += 1
        yield inputs, targets
    if not count:
        raise PodarError(f"importance {name!r} got data without a single batch; give some (inputs, targets)")


def input_batches(data: Any, name: str, limit: int = 32, batch_size: int = 64) -> Iterator[Any]:
    """Up to `limit` batches of inputs; targets, where the data have them, are dropped.

    Args:
        data: one tensor (its first axis is the batch), a data set of samples, an object with `.train`, or an iterable
            of batches, each the inputs or (inputs, targets).

    Raises:
        PodarError: no data, no batch, or inputs that are not finite.
    """
    if data is None:
        raise PodarError(f"{name} needs data: pass data=, a tensor of inputs or an iterable of batches")
    data = getattr(data, "train", data)
    if isinstance(data, Tensor):
        data = data.split(batch_size)
    elif hasattr(data, "__getitem__") and hasattr(data, "__len__") and not isinstance(data, (list, tuple)):
        data = torch.utils.data.DataLoader(data, batch_size=batch_size)
    _check_iterable(data, name)
    count = 0
    for batch in data:
        if count == limit:
            return
        inputs = batch[0] if isinstance(batch, (tuple, list)) else batch
        check_finite_inputs(inputs, name)
        count += 1
        yield inputs
    if not count:
        raise PodarError(f"{name} got data without a single batch")


def _check_iterable(data: Any, name: str) -> None:
    if isinstance(data, (str, bytes)) or not hasattr(data, "__iter__"):
        raise PodarError(f"{name} needs batches as data, not a {type(data).__name__}: podar.data.load(...) makes them")


def check_finite_inputs(inputs: Any, name: str) -> None:
    """Refuse NaN and infinite inputs: every statistic computed from them would be NaN too."""
    tensors = inputs.values() if isinstance(inputs, dict) else [inputs]
    for tensor in tensors:
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            bad = int((~torch.isfinite(tensor)).sum())
            raise PodarError(
                f"the calibration data for {name} hold {bad} NaN or infinite values in a batch of shape "
                f"{tuple(tensor.shape)}: repair or drop those samples"
            )


def forward(model: nn.Module, inputs: Any, name: str) -> Any:
    """Run the model on one batch, on the model's device, and say so in one sentence when the batch does not fit.

    Raises:
        PodarError: the model does not run on inputs of this shape.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    try:
        if isinstance(inputs, dict):
            outputs = model(**{k: v.to(device) if isinstance(v, Tensor) else v for k, v in inputs.items()})
        else:
            outputs = model(inputs.to(device) if isinstance(inputs, Tensor) else inputs)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        if isinstance(error, PodarError):
            raise
        shape = tuple(inputs.shape) if isinstance(inputs, Tensor) else type(inputs).__name__
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise PodarError(
            f"the model does not run on the calibration data for {name}, shape {shape}: {reason}"
        ) from error
    return getattr(outputs, "logits", outputs)


@contextmanager
def scoring(model: nn.Module, grad: bool = True) -> Iterator[dict[str, nn.Parameter]]:
    """Eval mode with fresh gradients; modes, `requires_grad` and gradients are put back at the end.

    Yields:
        The floating-point parameters by name.
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


def loss_of(model: nn.Module, batch: Batch, loss: Callable[[Any, Tensor], Tensor] | None, name: str) -> Tensor:
    """The loss of one batch: `loss(outputs, targets)`, cross entropy when None."""
    inputs, targets = batch
    outputs = forward(model, inputs, name)
    device = outputs.device if isinstance(outputs, Tensor) else targets.device
    try:
        return (loss or functional.cross_entropy)(outputs, targets.to(device))
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise PodarError(
            f"importance {name!r}: the loss cannot be computed from the model's output ({reason})"
        ) from error
