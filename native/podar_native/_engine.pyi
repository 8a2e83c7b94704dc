# The compiled module (native/src/module.cpp), for type checkers.
from collections.abc import Sequence

import numpy as np

FORMAT: int

def levels() -> str: ...

class Engine:
    def __init__(self, image: np.ndarray, level: str | None = None) -> None: ...
    def run(
        self,
        inputs: Sequence[np.ndarray],
        outputs: Sequence[np.ndarray],
        batch: int,
        threads: int,
        times: np.ndarray | None = None,
    ) -> None: ...
    @property
    def input_floats(self) -> list[int]: ...
    @property
    def output_floats(self) -> list[int]: ...
    @property
    def level(self) -> str: ...
    @property
    def arena_bytes(self) -> int: ...
    @property
    def ops(self) -> int: ...
