"""A limit on memory and work while a model is built from a configuration, checked before memory is taken."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from podar.errors import PodarError

BYTES = 4 << 30  # everything made while building, also what is freed again: the largest of Ultralytics' makes 1.2 GB
MULTIPLY_ADDS = 300 * 10**9  # of the forward pass in the constructor; the largest of Ultralytics' needs 30 · 10⁹


@contextmanager
def bounded(of: str) -> Iterator[None]:
    """Within: a tensor that would go over the limits is refused instead of made.

    **Raises:** `PodarError`; `of` names the file.
    """
    with _Bounded(of):
        yield


class _Bounded(TorchDispatchMode):
    def __init__(self, of: str) -> None:
        super().__init__()
        self.of, self.bytes, self.work = of, 0, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if not func._schema.name.endswith("_"):  # in place: no new memory
            self._count(func, args, kwargs)
        return func(*args, **kwargs)

    def _count(self, func: Any, args: Any, kwargs: Any) -> None:
        try:
            given = tree_map(_hollow, (args, {**kwargs, "device": "meta"} if "device" in kwargs else kwargs))
            if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(given)):
                given = (given[0], {**given[1], "device": "meta"})
            made = [leaf for leaf in tree_leaves(func(*given[0], **given[1])) if isinstance(leaf, Tensor)]
        except Exception:  # an operator without such a form, or one that fails: it will say so itself
            return
        if func.is_view:
            return
        self.bytes += sum(tensor.numel() * tensor.element_size() for tensor in made)
        if "convolution" in func._schema.name and made:
            self.work += made[0].numel() * given[0][1][0].numel()
        if self.bytes > BYTES or self.work > MULTIPLY_ADDS:
            raise PodarError(
                f"{self.of} describes a model that takes more than {BYTES >> 30} GB or "
                f"{MULTIPLY_ADDS // 10**9} · 10⁹ multiply-adds to build: make its channels or repeats smaller."
            )


def _hollow(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
