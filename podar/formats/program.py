"""Program files (.podar) of the sparse engine: prepared weights and the plan, run by podar-native without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from podar.engine import accelerate
from podar.engine.native import check_native
from podar.errors import PodarError, first_line
from podar.formats.flat import Flat
from podar.formats.registry import Attempt, Options, Reloaded, file_format


@file_format("podar", suffix=".podar")
def write_program(flat: Flat, path: Path, options: Options) -> list[Attempt]:
    """The one way to write a program file: every operator in the engine, whatever the batch."""
    check_native()
    return [lambda: _write(flat, path)]


def _write(flat: Flat, path: Path) -> Reloaded:
    native = check_native()
    accelerate(flat.module, flat.inputs, measure=False).save(path)
    try:
        runner = native.Runner(path, threads=torch.get_num_threads())
    except ValueError as error:
        raise PodarError(f"the sparse engine cannot open the file that it wrote: {first_line(error)}.") from error

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        return [torch.from_numpy(out) for out in runner.run([t.numpy() for t in tensors])]

    return Reloaded(run, f"podar-native {native.__version__}", True, "podar.accelerate")
