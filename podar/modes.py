"""The train or eval mode of every part of a model, put back as it was."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


@contextlib.contextmanager
def modes_put_back(model: nn.Module) -> Iterator[None]:
    """Whatever modes the model's parts are given within, each has its own again afterwards."""
    modes = {part: part.training for part in model.modules()}
    try:
        yield
    finally:
        # train() first: some models override it to drop what they cached in eval mode.
        with contextlib.suppress(NotImplementedError):  # an exported program: its mode was fixed when it was exported
            model.train(modes[model])
        for part, mode in modes.items():
            part.training = mode
