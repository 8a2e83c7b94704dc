"""Where pictures come from: a tensor in memory, or files that are decoded when they are asked for."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from podar.errors import PodarError

Pixels = Callable[[Tensor], Tensor]
"""Row numbers int64 [n] → pictures [n, C, H, W], uint8 (0 to 255) or float32."""

HELD_BYTES = 2 << 30  # decoded pictures up to this size stay in memory
_LUMA = (0.299, 0.587, 0.114)  # ITU-R 601, what Pillow uses


@dataclass(frozen=True, eq=False)
class Held:
    """Pictures in memory: uint8 or float32 [N, C, H, W]."""

    images: Tensor

    def __call__(self, rows: Tensor) -> Tensor:
        return self.images[rows]

    def __len__(self) -> int:
        return len(self.images)


@dataclass(frozen=True, eq=False)
class Decoded:
    """Pictures that are decoded, brought to one size and forgotten.

    - `open`: row number → Pillow image. `names`: what messages call the rows.
    - `shape`: (C, H, W) with one channel (grey) or three (RGB).
    """

    open: Callable[[int], Any]
    names: Sequence[str]
    shape: tuple[int, int, int]

    def __call__(self, rows: Tensor) -> Tensor:
        images = torch.empty((len(rows), *self.shape), dtype=torch.uint8)
        numbers = rows.tolist()
        bad = [name for name in self._each(range(len(numbers)), numbers, images) if name]
        if bad:
            raise undecodable(bad, len(numbers))
        return images

    def __len__(self) -> int:
        return len(self.names)

    def _each(self, places: Sequence[int], numbers: Sequence[int], images: Tensor) -> list[str | None]:
        def decode(place: int) -> str | None:
            try:
                images[place] = torch.from_numpy(to_array(self.open(numbers[place]), self.shape))
            except (OSError, ValueError, SyntaxError, EOFError) as error:  # what Pillow raises for damaged files
                return f"{self.names[numbers[place]]} ({str(error).rstrip('.') or type(error).__name__})"
            return None

        # Pillow decodes outside Python's lock.
        with ThreadPoolExecutor(max_workers=min(16, os.cpu_count() or 1)) as pool:
            return list(pool.map(decode, places))


def held(decoded: Decoded) -> Held | Decoded:
    """Decode every picture into memory, where they fit; else leave them on the disk.

    **Raises:** `PodarError` that names the first picture which does not decode, and how many there are.
    """
    channels, height, width = decoded.shape
    if len(decoded) * channels * height * width > HELD_BYTES:
        return decoded
    return Held(decoded(torch.arange(len(decoded))))


def undecodable(bad: Sequence[str], total: int) -> PodarError:
    """The error for pictures that do not decode: `bad` holds their names with reasons."""
    count = f"{len(bad)} of {total} images do" if len(bad) > 1 else f"1 of {total} images does"
    return PodarError(f"{count} not decode; the first is {bad[0]}: replace or remove them.")


def to_array(image: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """A Pillow image as uint8 [C, H, W]: upright, grey or RGB, its short side scaled to fit and the middle cut out."""
    from PIL import Image, ImageOps

    channels, height, width = shape
    upright = ImageOps.exif_transpose(image)
    if upright.mode.startswith("I;16") or upright.mode == "I":  # 16-bit grey, which Pillow would clip at 255
        upright = Image.fromarray((np.asarray(upright, dtype=np.uint32) >> 8).clip(0, 255).astype(np.uint8))
    if upright.mode == "P" and "transparency" in upright.info:
        upright = upright.convert("RGBA")
    upright = upright.convert("L" if channels == 1 else "RGB")
    if upright.size != (width, height):
        upright = ImageOps.fit(upright, (width, height), method=Image.Resampling.BILINEAR)
    array = np.array(upright, dtype=np.uint8)
    return array[None] if channels == 1 else array.transpose(2, 0, 1).copy()


def converted(images: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Bring pictures [n, C, H, W] to other channels (1 ↔ 3) and another size, if they are not of it already."""
    channels, height, width = shape
    if images.shape[1] != channels:
        if channels == 1 and images.shape[1] == 3:
            luma = torch.tensor(_LUMA, device=images.device).view(1, 3, 1, 1)
            grey = (images.float() * luma).sum(1, keepdim=True)
            images = grey.round().to(torch.uint8) if images.dtype == torch.uint8 else grey
        elif images.shape[1] == 1:
            images = images.expand(-1, channels, -1, -1)
        else:
            raise PodarError(f"pictures of {images.shape[1]} channels cannot be turned into {channels} channels.")
    if images.shape[2:] == (height, width):
        return images
    scale = max(height / images.shape[2], width / images.shape[3])
    sides = [max(wanted, round(side * scale)) for side, wanted in zip(images.shape[2:], (height, width))]
    scaled = functional.interpolate(images.float(), size=sides, mode="bilinear", antialias=True)
    top, left = (sides[0] - height) // 2, (sides[1] - width) // 2
    scaled = scaled[:, :, top : top + height, left : left + width]
    return scaled.round().clamp(0, 255).to(torch.uint8) if images.dtype == torch.uint8 else scaled
