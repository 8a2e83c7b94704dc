"""The packaged demo network: `demo`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from podar.errors import PodarError
from podar.libraries.register import library

if TYPE_CHECKING:
    from podar.workshops import Source


@library(
    "demo",
    help="podar's own ResNet-20 for Fashion-MNIST",
    accepts=lambda model: model == "demo",
    complete=lambda incomplete: ["demo"],
)
def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """ResNet-20, trained on Fashion-MNIST, for greyscale images of 28×28.

    **Raises:** `PodarError` where `model_args` are given: the trained network is what it is.
    """
    if model_args:
        raise PodarError("the demo network is trained as it is, so --model-arg has no meaning here.")
    from podar.demo import load_trained
    from podar.model.example_inputs import random_images
    from podar.workshops import PodarWorkshop, Source

    return Source(
        called=model,
        spec={"model": "demo", "model_args": {}},
        make=load_trained,
        dense=load_trained,
        example_inputs=lambda _: random_images(1, 28, 28),
        workshop=PodarWorkshop(),
        task="classify",
    )
