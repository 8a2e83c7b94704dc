"""Runs a program file on numpy arrays: mapped into memory, no torch."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from podar_native import _engine
from podar_native.program import describe, digest_holds


class Runner:
    """A program, ready to run.

    **Arguments:**

    - `program`: a file, or the bytes of one.
    - `threads`: how many threads work on one image.
    - `level`: `"avx512"`, `"avx2"`, `"sse2"`, `"neon"` or `"scalar"`; None: `PODAR_SIMD` in the environment, or the
      best that this processor runs.
    - `verify`: also compare the file's digest (reads all of it).

    **Raises:** `ValueError` for what is no program, a level this processor does not run, fewer than one thread;
    `OSError` for a file that cannot be read.

    ```python
    run = Runner("model.podar")
    (scores,) = run(np.zeros((1, 3, 224, 224), np.float32))
    ```
    """

    def __init__(
        self, program: str | Path | bytes, *, threads: int = 1, level: str | None = None, verify: bool = False
    ) -> None:
        if isinstance(program, (str, Path)):
            if os.path.getsize(program) == 0:
                raise ValueError(f"{program} is no program: it is empty.")
            image = np.memmap(program, np.uint8, "r")
        else:
            image = aligned(len(program))
            image[:] = np.frombuffer(program, np.uint8)
        if threads < 1:
            raise ValueError(f"threads is {threads}: give a whole number from 1 up.")
        self.threads = threads
        self.description: dict[str, Any] = describe(image)
        if verify and not digest_holds(image):
            raise ValueError("the program is damaged (its digest differs): prepare it again.")
        self._engine = _engine.Engine(image, level or os.environ.get("PODAR_SIMD") or None)
        self._inputs = [(i["name"], tuple(i["shape"])) for i in self.description["inputs"]]
        self._outputs = [tuple(o["shape"]) for o in self.description["outputs"]]
        said = [[math.prod(shape) for _, shape in self._inputs], [math.prod(shape) for shape in self._outputs]]
        if said != [self._engine.input_floats, self._engine.output_floats]:
            raise ValueError("the program's description does not fit its tables: prepare it again.")

    @property
    def level(self) -> str:
        """The vector level in use."""
        return self._engine.level

    @property
    def arena_bytes(self) -> int:
        """What the activations of one image take."""
        return self._engine.arena_bytes

    def __call__(self, *inputs: np.ndarray) -> list[np.ndarray]:
        """Run on arrays of float32 with one batch axis in front of the program's shapes; batches may differ per call.

        **Raises:** `ValueError` for another number of inputs, another shape or another type.
        """
        return self.run(inputs)

    def run(self, inputs: Sequence[np.ndarray], times: np.ndarray | None = None) -> list[np.ndarray]:
        """As a call; each operator's nanoseconds are added to `times` (int64, one for each operator)."""
        if len(inputs) != len(self._inputs):
            raise ValueError(f"the program takes {len(self._inputs)} inputs, {len(inputs)} were given.")
        ready = []
        for (name, shape), value in zip(self._inputs, inputs):
            value = np.asarray(value)
            if value.shape[1:] != shape or value.ndim != len(shape) + 1:
                wanted = "×".join(map(str, ("batch", *shape)))
                raise ValueError(
                    f"{name} is {'×'.join(map(str, value.shape)) or 'a scalar'}, the program takes {wanted}."
                )
            if value.dtype != np.float32:
                raise ValueError(f"{name} is {value.dtype}, the program takes float32.")
            ready.append(np.ascontiguousarray(value))
        batches = {len(value) for value in ready}
        if len(batches) > 1:
            raise ValueError(f"the inputs hold different numbers of images: {sorted(batches)}.")
        batch = batches.pop() if batches else 1
        outputs = [np.empty((batch, *shape), np.float32) for shape in self._outputs]
        self._engine.run(ready, outputs, batch, self.threads, times)
        return outputs

    def profile(self, *inputs: np.ndarray) -> np.ndarray:
        """The nanoseconds of each operator in one run."""
        times = np.zeros(self._engine.ops, np.int64)
        self.run(inputs, times)
        return times


def aligned(size: int) -> np.ndarray:
    """Uninitialised bytes that begin at a multiple of 64."""
    room = np.empty(size + 64, np.uint8)
    start = -room.ctypes.data % 64
    return room[start : start + size]
