"""Program files (.podar) of the sparse engine: prepared weights and the plan, run by podar-native without torch."""

from __future__ import annotations

from pathlib import Path

from podar.engine.accelerating import accelerate
from podar.engine.native import check_native
from podar.formats.flat import Flat
from podar.formats.registry import Attempt, WritingOptions, Written, file_format


@file_format(
    "podar", suffix=".podar", runtime="podar", packages=("podar_native",), extra="sparse",
    help="podar's sparse engine, without torch",
)  # fmt: skip
def write_program(flat: Flat, path: Path, options: WritingOptions) -> list[Attempt]:
    """The one way to write a program file: every operator in the engine, whatever the batch."""
    check_native()

    def write() -> Written:
        accelerate(flat.module, flat.inputs, measure=False).save(path)
        return Written("podar.accelerate", dynamic_batch=True)

    return [write]
