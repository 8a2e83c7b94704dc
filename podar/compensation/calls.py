"""Numbers the calls of torch functions in a forward pass, so that a later pass can find the same tensor again.

An operator is seen below automatic differentiation, where no gradient can start; the tensor that a call returns can be
part of a loss.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from podar.compensation.flow import first_tensor
from podar.compensation.readings import Parameters, Reading, Watch


class Calls(TorchFunctionMode):
    """While it is active, `seen(number, tensor)` is called with the tensor that each call of a torch function returns.

    Calls are numbered in order; a function that another one calls is part of that call.
    """

    def __init__(self, seen: Callable[[int, Tensor], None]) -> None:
        super().__init__()
        self._seen, self._count = seen, 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        number, self._count = self._count, self._count + 1
        tensor = first_tensor(out)
        if tensor is not None:
            self._seen(number, tensor)
        return out


def calls_that_return(
    model: nn.Module, run: Callable[[nn.Module], Any], parameters: Parameters, operators: Collection[int]
) -> dict[int, int]:
    """By operator: the first call that returns its result, as it is or in another shape. The model runs once.

    **Arguments:**

    - `operators`: numbers of operators, as `podar.compensation.flow.follow` counts them.
    """
    alive: list[Tensor] = []  # results are held, so that no two of them share memory
    made: dict[tuple[int, int], int] = {}
    found: dict[int, int] = {}
    count = 0

    def done(func: Any, args: tuple[Any, ...], out: Any, reading: Reading | None) -> None:
        nonlocal count
        number, count = count, count + 1
        result = first_tensor(out)
        if number in operators and result is not None and result.numel():
            alive.append(result)
            made[result.data_ptr(), result.numel()] = number

    def seen(call: int, tensor: Tensor) -> None:
        number = made.get((tensor.data_ptr(), tensor.numel())) if tensor.device.type != "meta" else None
        if number is not None:
            found.setdefault(number, call)

    with torch.no_grad(), Watch(parameters, lambda reading: None, done), Calls(seen):
        run(model)
    return found
