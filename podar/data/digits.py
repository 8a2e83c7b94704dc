"""Scikit-learn's handwritten digits: 1,797 pictures of 8×8, grey values 0 to 16."""

from __future__ import annotations

from podar.data.register import Found, Part, data_source
from podar.errors import require


@data_source(
    "digits",
    help="scikit-learn's handwritten digits",
    accepts=lambda spec: spec == "digits",
    names=("digits",),
    package="sklearn",
    extra="data",
)
def read(spec: str, image_size: int | None, channels: int | None) -> Found:
    """The whole set, in one part. Mirrored digits are no digits, so they are not flipped.

    **Raises:** `PodarError` where scikit-learn is not installed.
    """
    import torch

    from podar.data.pictures.pixels import Held

    bunch = require("sklearn.datasets", extra="data").load_digits()
    images = torch.from_numpy(bunch.images).float().div_(16).unsqueeze(1)
    part = Part(Held(images), torch.from_numpy(bunch.target).long(), (1, 8, 8))
    return Found("digits", {"all": part}, tuple(map(str, bunch.target_names)), flip=False)
