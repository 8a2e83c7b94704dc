"""The packaged demo network: `demo`."""

from __future__ import annotations

from typing import Any

from podar.errors import PodarError
from podar.libraries import Blueprint, model_source


@model_source("demo", accepts=lambda model: model == "demo", complete=lambda incomplete: ["demo"])
def blueprint(model: str, model_args: dict[str, Any], trust: bool) -> Blueprint:
    """ResNet-20, trained on Fashion-MNIST, for greyscale images of 28×28.

    **Raises:** `PodarError` where `model_args` are given: the trained network is what it is.
    """
    if model_args:
        raise PodarError("the demo network is trained as it is, so --model-arg has no meaning here.")
    from podar.demo import load_trained
    from podar.libraries._inputs import random_images

    spec: dict[str, Any] = {"model": "demo", "model_args": {}}
    return Blueprint(load_trained, lambda built: random_images(1, 28, 28), spec, trained=True)
