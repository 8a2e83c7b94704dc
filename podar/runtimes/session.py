"""What every runtime opens a model file as: named inputs and outputs, and one way to run it on arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from podar.errors import sizes


@dataclass(frozen=True)
class Port:
    """One input or output of a model file.

    - `name`: as the file calls it.
    - `shape`: None where any size goes.
    - `dtype`: by numpy's name; `"bfloat16"`, which numpy does not have, is given and taken as float32.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str

    @property
    def array_type(self) -> np.dtype[Any]:
        """The type of the arrays that stand for it."""
        return np.dtype("float32" if self.dtype == "bfloat16" else self.dtype)

    def __str__(self) -> str:
        return f"{sizes('any' if size is None else size for size in self.shape)} {self.dtype}"


class Session(Protocol):
    """A model file opened in its runtime, on as many threads as were asked for.

    - `inputs`, `outputs`: what it takes and gives, in order.
    - `version`: the runtime's name and version, e.g. `"onnxruntime 1.32.0"`.

    A simulator of a device may have `elapsed_ms` beside these: what the last run takes there, which then counts.
    """

    @property
    def inputs(self) -> Sequence[Port]: ...
    @property
    def outputs(self) -> Sequence[Port]: ...
    @property
    def version(self) -> str: ...

    def run(self, arrays: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
        """The outputs for contiguous arrays, one for each input, both in order. They are ready when it returns, and
        another run does not change them."""
        ...


@dataclass(frozen=True)
class Ready:
    """A model with its inputs, which can be run again and again.

    - `version`: the runtime's name and version.
    - `run`: runs the model once; its outputs are ready when it returns.
    """

    version: str
    run: Callable[[], Any]
