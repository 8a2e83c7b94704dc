"""Scikit-learn's handwritten digits: 1,797 pictures of 8×8, grey values 0 to 16."""

from __future__ import annotations

import torch

from podar.data.pixels import Held
from podar.data.registry import Found, Part, data_source
from podar.errors import require


@data_source("digits", accepts=lambda spec: spec == "digits", names=("digits",))
def read(spec: str, image_size: int | None, channels: int | None) -> Found:
    """The whole set, in one part. Mirrored digits are no digits, so they are not flipped.

    **Raises:** `PodarError` where scikit-learn is not installed.
    """
    bunch = require("sklearn.datasets", extra="data").load_digits()
    images = torch.from_numpy(bunch.images).float().div_(16).unsqueeze(1)
    part = Part(Held(images), torch.from_numpy(bunch.target).long(), (1, 8, 8))
    return Found("digits", {"all": part}, tuple(map(str, bunch.target_names)), flip=False)
