"""Small data sets of every label kind, composed once."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

from podar.data.scenes import compose


@pytest.fixture(scope="session")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """task → data.yaml (for classify a folder) of a few scenes of 64 pixels."""

    @cache
    def of(task: str) -> Path:
        few = (24, 12) if task == "classify" else (6, 3)
        folder = tmp_path_factory.mktemp(task)
        return compose(folder, scenes=few, side=64, task=task, photographs="fashion-mnist-demo")

    return of
