"""What is measured of a training beside its loss: torchmetrics objects, or functions of (outputs, targets)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from podar.errors import PodarError, UsageError, first_line
from podar.model.batches import size
from podar.model.tensors import map_tensors
from podar.recover.objectives import said_of

RESERVED = ("epoch", "loss", "lr", "seconds", "val_accuracy")


class Metrics:
    """Some metrics, which add up over the batches of an epoch.

    An object with `update`, `compute` and `reset` (torchmetrics) adds up itself; what a function says is averaged over
    the samples.

    **Arguments:** `given`: one metric, several, or a dict of them by name.

    **Raises:** `UsageError` for what is no metric, and names that stand twice or for something else.
    """

    def __init__(self, given: Any, device: torch.device) -> None:
        if callable(given) or _adds_up(given):
            given = [given]
        every: list[Any] = list(given.values() if isinstance(given, Mapping) else given or ())
        names = [str(name) for name in given] if isinstance(given, Mapping) else [_name(metric) for metric in every]
        for name, metric in zip(names, every):
            if not callable(metric) and not _adds_up(metric):
                raise UsageError(f"metrics={metric!r} is no metric: give functions of (outputs, targets).")
            if name in RESERVED or names.count(name) > 1:
                raise UsageError(f"two numbers of an epoch would be called {name!r}: name metrics by a dict.")
            if isinstance(metric, torch.nn.Module):
                metric.to(device)
        self.every: dict[str, Any] = dict(zip(names, every))
        self.reset()

    def __bool__(self) -> bool:
        return bool(self.every)

    def reset(self) -> None:
        """Begin anew."""
        self.sums, self.count = dict.fromkeys(self.every, 0.0), 0
        for metric in self.every.values():
            if _adds_up(metric):
                metric.reset()

    @torch.no_grad()
    def add(self, outputs: Any, targets: Any) -> None:
        """Count one batch."""
        outputs, count = map_tensors(_plain, outputs), _count(targets, outputs)
        self.count += count
        for name, metric in self.every.items():
            if _adds_up(metric):
                said_of(metric.update, f"the metric {name}", outputs, targets)
            else:
                found = _number(said_of(metric, f"the metric {name}", outputs, targets), name)
                self.sums[name] += found * count

    def values(self) -> dict[str, float]:
        """What they say of the batches since `reset`; nothing where there was none."""
        found: dict[str, float] = {}
        for name, metric in self.every.items() if self.count else ():
            if not _adds_up(metric):
                found[name] = self.sums[name] / self.count
                continue
            try:
                value = metric.compute()
            except (RuntimeError, ValueError, TypeError) as error:
                raise PodarError(f"the metric {name} cannot be computed ({first_line(error)}).") from error
            parts = {str(key): part for key, part in value.items()} if isinstance(value, Mapping) else {name: value}
            found.update({key: _number(part, key) for key, part in parts.items()})
        return found


def _adds_up(metric: Any) -> bool:
    return not isinstance(metric, type) and all(
        callable(getattr(metric, verb, None)) for verb in ("update", "compute", "reset")
    )


def _name(metric: Any) -> str:
    metric = getattr(metric, "func", metric)  # of a functools.partial
    name = getattr(metric, "__name__", type(metric).__name__)
    return "metric" if name == "<lambda>" else name


def _plain(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _count(*values: Any) -> int:
    for value in values:
        try:
            return size(value)
        except PodarError:
            continue
    return 1


def _number(value: Any, name: str) -> float:
    if isinstance(value, Tensor) and value.numel() != 1:
        raise PodarError(
            f"the metric {name} gives the shape {tuple(value.shape)}, and one number is needed: average it."
        )
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise PodarError(f"the metric {name} gives a {type(value).__name__}, and a number is needed.") from error
