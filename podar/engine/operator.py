"""The torch operator `podar::run_sparse`: a program run on inputs, with a fake for export and compile."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from podar.errors import PodarError, require

if TYPE_CHECKING:
    from podar_native import Runner

# Opened programs by their digest: the same weights are opened once, and the oldest are closed beyond this many.
_OPEN: OrderedDict[bytes, Runner] = OrderedDict()
_MOST = 64
_LOCK = threading.Lock()
_DIGEST = slice(80, 112)  # native/src/format.h


def open_program(program: Tensor) -> Runner:
    """The engine for a program held in a uint8 tensor.

    **Raises:** `PodarError` where the native package is missing, or refuses the program.
    """
    native = require("podar_native", extra="sparse")
    data = program.contiguous().cpu().numpy()
    key = data[_DIGEST].tobytes()
    with _LOCK:
        if key in _OPEN:
            _OPEN.move_to_end(key)
            return _OPEN[key]
        try:
            runner = native.Runner(data.tobytes())
        except ValueError as error:
            raise PodarError(f"the sparse engine cannot run its program: {error}") from error
        _OPEN[key] = runner
        if len(_OPEN) > _MOST:
            _OPEN.popitem(last=False)
        return runner


def shapes(text: str) -> list[tuple[int, ...]]:
    """Output shapes without the batch axis from how they are written in the graph: `"64,56,56;1000"`."""
    return [tuple(int(n) for n in one.split(",")) for one in text.split(";")]


@torch.library.custom_op("podar::run_sparse", mutates_args=(), device_types="cpu")
def run_sparse(program: Tensor, inputs: Sequence[Tensor], outputs: str) -> list[Tensor]:
    """Run a program of the sparse engine on a batch, with as many threads as torch uses."""
    return run_program(program, inputs)


def run_program(program: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
    """What the operator does, past torch's dispatcher.

    **Raises:** `PodarError` where the program or the inputs do not fit.
    """
    runner = open_program(program)
    runner.threads = torch.get_num_threads()
    try:
        return [torch.from_numpy(out) for out in runner.run([x.detach().contiguous().numpy() for x in inputs])]
    except ValueError as error:
        raise PodarError(f"the sparse engine cannot run on these inputs: {error}") from error


@run_sparse.register_fake
def _(program: Tensor, inputs: Sequence[Tensor], outputs: str) -> list[Tensor]:
    batch = inputs[0].shape[0]
    return [inputs[0].new_empty((batch, *shape)) for shape in shapes(outputs)]
