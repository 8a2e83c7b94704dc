"""A limit on the memory of a model that is built from a user's numbers: refused before the memory is allocated."""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as hooks
from torch.utils._python_dispatch import TorchDispatchMode

from podar.errors import PodarError, sizes
from podar.trust.memory import free_memory

_MODULES = 300_000  # a mixture of experts of 700 billion parameters has a fifth of it


@contextmanager
def within_memory(of: str, most: int | None = None) -> Iterator[None]:
    """Within: a tensor made from numbers alone, or all parameters and buffers together, or a count of layers that go
    beyond this machine are refused. Other threads are not limited.

    **Arguments:** `of`: the model, for messages; `most`: bytes; None: the memory that is free.

    **Raises:** `PodarError`.
    """
    limit, thread = min(free_memory(), most or sys.maxsize), threading.get_ident()
    taken = {"bytes": 0, "modules": 0}

    def registered(module: nn.Module, name: str, value: Any) -> None:
        if threading.get_ident() != thread:
            return
        if isinstance(value, nn.Module):
            taken["modules"] += 1
        elif isinstance(value, Tensor) and not value.is_meta:
            taken["bytes"] += value.numel() * value.element_size()
        if taken["bytes"] > limit or taken["modules"] > _MODULES:
            raise PodarError(
                f"{of} describes a model of more than {limit / 2**30:.1f} GB, which is all that it may take here, or "
                f"of more than {_MODULES:,} layers: make its widths or repeats smaller."
            )

    with ExitStack() as stack:
        for register in (
            hooks.register_module_parameter_registration_hook,
            hooks.register_module_buffer_registration_hook,
            hooks.register_module_module_registration_hook,
        ):
            stack.callback(register(registered).remove)
        stack.enter_context(_Sized(of, limit))
        yield


class _Sized(TorchDispatchMode):
    """Looks at tensors that are made from numbers (`torch.empty`, `torch.arange`) before they are."""

    def __init__(self, of: str, limit: int) -> None:
        super().__init__()
        self.of, self.limit = of, limit

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if args and not isinstance(args[0], (Tensor, list, tuple)):  # arange, linspace and eye take counts
            count = max((abs(number) for number in args if isinstance(number, (int, float))), default=0)
            self._check((count,), kwargs)
        elif args and isinstance(args[0], (list, tuple)) and all(isinstance(size, int) for size in args[0]):
            self._check(args[0], kwargs)
        return func(*args, **kwargs)

    def _check(self, shape: Any, kwargs: Any) -> None:
        if torch.device(kwargs.get("device") or "cpu").type != "meta" and math.prod(shape) > self.limit:
            raise PodarError(
                f"{self.of} describes a tensor of {sizes(shape)} numbers, and {self.limit / 2**30:.1f} GB are all that "
                "it may take here: make its widths smaller."
            )
