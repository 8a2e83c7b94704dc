"""Writes a picture as a file that is there whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from podar.files import write_atomic

if TYPE_CHECKING:
    import numpy as np


def write_picture(path: Path, pixels: np.ndarray, at_most: int | None = None) -> None:
    """Write bytes [height, width, 3], or [height, width] of grey, in the format that the file's name says.

    **Arguments:** `at_most`: pixels of the longer side; larger pictures are made smaller.

    **Raises:** `PodarError` where the folder cannot be written to, or the disk is full; what was there stays.
    """
    from PIL import Image

    picture = Image.fromarray(pixels)
    if at_most is not None:
        picture.thumbnail((at_most, at_most))
    written = io.BytesIO()  # Pillow leaves half a file on a full disk
    picture.save(written, Image.registered_extensions()[path.suffix.lower()], optimize=True)
    write_atomic(path, written.getvalue())
