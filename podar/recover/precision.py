"""Which arithmetic trains fastest here: a few timed steps of each, since no rule holds on every processor."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from podar.errors import PodarError, UsageError
from podar.model.batches import Batch, rows, size
from podar.model.tensors import map_tensors, tensors_in

STEPS, FEW = 5, 16  # steps, and pictures in each: emulated bf16 can be a hundred times slower
HOPELESS = 2.0  # times the best so far: a slower choice is not tried further


@dataclass(frozen=True)
class Precision:
    """How forward and backward are computed; weights and optimizer stay fp32."""

    bf16: bool = False
    channels_last: bool = False

    def __str__(self) -> str:
        return ("bf16" if self.bf16 else "fp32") + (", channels_last" if self.channels_last else "")

    @classmethod
    def parse(cls, text: str) -> Precision:
        """The inverse of `str`."""
        return cls("bf16" in text, "channels_last" in text)

    def autocast(self, device: torch.device) -> torch.autocast:
        """The context in which forward runs."""
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)


CHOICES = tuple(str(Precision(bf16, last)) for bf16 in (False, True) for last in (False, True))


def check_precision(asked: str | None) -> None:
    """Refuse what is no precision.

    **Raises:** `UsageError`.
    """
    if asked is not None and asked not in CHOICES:
        raise UsageError(
            f"there is no precision={asked!r}: give fp32 or bf16, with ', channels_last' where that layout is wanted, "
            "or None for the fastest (auto on the command line)."
        )


def fastest_precision(model: nn.Module, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor]) -> Precision:
    """Time `STEPS` forward and backward passes of a copy of the model, in its modes, in each arithmetic: the best."""
    batch = _few(batch)
    layouts = (False, True) if any(tensor.dim() == 4 for tensor in tensors_in(batch.inputs)) else (False,)
    times: dict[Precision, float] = {}
    for choice in (Precision(bf16, last) for bf16 in (False, True) for last in layouts):
        tried = copy.deepcopy(model)
        try:
            times[choice] = _seconds(tried, batch, loss, choice, min(times.values(), default=float("inf")))
        except (RuntimeError, NotImplementedError, PodarError):
            continue  # this model, or this processor, cannot
    return min(times, key=lambda choice: times[choice]) if times else Precision()


def channels_last(batch: Batch) -> Batch:
    """The batch with its pictures laid out channels last."""
    return Batch(map_tensors(_last, batch.inputs), batch.targets)


def _last(tensor: Tensor) -> Tensor:
    return tensor.to(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _few(batch: Batch) -> Batch:
    """A few samples of a batch; the whole batch where the first axis of some tensor is not its samples."""
    try:
        return rows(batch, 0, FEW, size(batch.inputs))
    except PodarError:
        return batch


def _seconds(
    model: Any, batch: Batch, loss: Callable[[nn.Module, Batch], Tensor], choice: Precision, best: float
) -> float:
    """The shortest of a few steps; a choice that is far behind the best so far is not tried further."""
    if choice.channels_last:
        model, batch = model.to(memory_format=torch.channels_last), channels_last(batch)
    device = next((tensor.device for tensor in tensors_in(batch.inputs)), torch.device("cpu"))
    laps = []
    for _ in range(STEPS):
        start = time.perf_counter()
        with choice.autocast(device):
            value = loss(model, batch)
        value.backward()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        laps.append(time.perf_counter() - start)
        if laps[-1] > HOPELESS * best:
            break
    return min(laps)
