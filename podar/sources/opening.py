"""MODEL and DATA, as the command line writes them, become one Source."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from podar.errors import PodarError
from podar.libraries import find_library
from podar.libraries.saved import is_saved
from podar.model.checkpoints import check_finite, load_weights
from podar.plans.saving import load
from podar.sources.naming import take_modules, unknown
from podar.workshops import Source


def open_source(
    model: str,
    data: str | None = None,
    *,
    weights: str | Path | None = None,
    model_args: Mapping[str, Any] | None = None,
    modules: Sequence[str | Path] = (),
    trust: bool = False,
    image_size: int | None = None,
) -> Source:
    """Find a model and a data set by their names, and check that they belong together.

    **Arguments:**

    - `model`: `timm:resnet18`, `torchvision:resnet50`, `transformers:FOLDER`, `yolo26n.yaml`, `yolo26n.pt`,
      `file.py:function`, a folder that podar saved, or `demo`.
    - `data`: a name or path that `podar.data.load` takes, or None.
    - `weights`: a checkpoint for the model: safetensors, a state dict that `torch.save` wrote, or a folder that
      podar saved from this architecture.
    - `model_args`: arguments of the model's constructor.
    - `modules`: Python files that define layers which the model's configuration or checkpoint names. They must have
      been named on the command line (`--module`), or be run by `trust`.
    - `trust`: load pickles that hold more than tensors, and run code that a model's folder brings along.
    - `image_size`: side in pixels to which images are brought; None: the data set's own, if the model takes it.

    **Raises:** `PodarError` for anything missing, unknown, damaged, not finite, or of clashing shapes or classes.

    ```python
    source = open_source("timm:resnet18", "fashion-mnist", model_args={"num_classes": 10, "in_chans": 1})
    model = source.build()
    ```
    """
    library = find_library(model)
    if library is None:
        raise PodarError(unknown(model))
    take_modules(modules, model, trust)
    source = library.opened(model, dict(model_args or {}), trust)
    if weights is not None:
        source = with_weights(source, weights, trust)
    check_finite(source.model, of=str(weights or model))
    return source.workshop.furnished(source, data, image_size)


def with_weights(source: Source, weights: str | Path, trust: bool) -> Source:
    """The same source with the weights of a checkpoint, or of a folder that podar saved from this architecture.

    **Raises:** `PodarError` where they cannot be read, or do not fit.
    """
    if is_saved(weights):
        other = source.replaced(make=lambda: load(Path(weights), source.make).eval())
    else:
        state = source.workshop.read_weights(Path(weights), trust)

        def filled(model: nn.Module) -> nn.Module:
            load_weights(model, state, of=str(weights))
            return model.eval()

        other = source.changed(filled)
    return other.replaced(notes=())  # they speak of the weights that the model came with
