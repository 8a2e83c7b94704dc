"""Example inputs: random images, and a search for inputs that an unknown model takes."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from podar.errors import PodarError
from podar.model.inputs import ExampleInputs, call

_SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 240, 256, 299, 320, 384, 512, 16, 8)
_FIRST = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.Linear, nn.LSTM, nn.GRU)


def random_images(channels: int, height: int, width: int, batch: int = 1) -> Tensor:
    """Example images `(batch, channels, height, width)`, normal noise, the same every time.

    ```python
    >>> random_images(3, 8, 8).shape
    torch.Size([1, 3, 8, 8])

    ```
    """
    return torch.randn(batch, channels, height, width, generator=torch.Generator().manual_seed(0))


def runs(model: nn.Module, inputs: ExampleInputs) -> bool:
    """Whether a model in eval mode takes these inputs without an error."""
    try:
        with torch.no_grad():
            call(model, inputs)
    except Exception:  # any error of any model says the same: not these inputs
        return False
    return True


def own_inputs(model: nn.Module, of: str) -> ExampleInputs:
    """Inputs that a model in eval mode takes, found by trying: the usual sizes for what its first layer is.

    **Raises:** `PodarError` when nothing tried runs; the message says how to give inputs.
    """
    for inputs in _candidates(model):
        if runs(model, inputs):
            return inputs
    raise PodarError(
        f"podar found no example input that {of} takes: name a data set with --data, "
        "or define example_inputs (a tensor, tuple or dict) in its file."
    )


def _candidates(model: nn.Module) -> Iterator[ExampleInputs]:
    first = next((m for m in model.modules() if isinstance(m, _FIRST)), None)
    generator = torch.Generator().manual_seed(0)
    if isinstance(first, nn.Conv2d):
        yield from (random_images(first.in_channels, side, side) for side in _SIDES)
    elif isinstance(first, nn.Conv1d):
        yield from (torch.randn(1, first.in_channels, n, generator=generator) for n in (1024, 128, 16000, 16))
    elif isinstance(first, nn.Conv3d):
        yield from (torch.randn(1, first.in_channels, 16, n, n, generator=generator) for n in (112, 224, 32))
    elif isinstance(first, nn.Embedding):
        yield from (torch.randint(first.num_embeddings, (1, n), generator=generator) for n in (16, 128, 512))
    elif isinstance(first, (nn.Linear, nn.LSTM, nn.GRU)):
        width = first.in_features if isinstance(first, nn.Linear) else first.input_size
        yield torch.randn(1, width, generator=generator)
        yield torch.randn(1, 16, width, generator=generator)
        sides = [side for side in _SIDES for channels in (1, 3) if channels * side * side == width]
        yield from (random_images(width // side**2, side, side) for side in sides)  # the model flattens its input
