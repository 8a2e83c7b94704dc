"""Random crop with padding and random flip, for a whole batch at once."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def crop_and_flip(images: Tensor, generator: torch.Generator, *, flip: bool = True) -> Tensor:
    """Shift every picture by up to an eighth of its sides, and mirror half of them (He et al. 2015, section 4.2).

    **Arguments:**

    - `images`: [n, C, H, W], any type; what is shifted in is 0 (black) for uint8, else each picture's own mean.
    - `generator`: a CPU generator; the same numbers are drawn on every device.
    - `flip`: mirror left and right with probability 1/2.

    **Returns:** New pictures of the same shape, type and device.
    """
    count, channels, height, width = images.shape
    up, side = round(height / 8), round(width / 8)
    device = images.device
    if images.dtype == torch.uint8:
        padded = functional.pad(images, (side, side, up, up))
    else:
        middle = images.mean(dim=(1, 2, 3), keepdim=True)
        padded = functional.pad(images - middle, (side, side, up, up)) + middle
    top = torch.randint(0, 2 * up + 1, (count, 1), generator=generator).to(device)
    left = torch.randint(0, 2 * side + 1, (count, 1), generator=generator).to(device)
    rows = top + torch.arange(height, device=device)
    columns = left + torch.arange(width, device=device)
    if flip:
        mirrored = (torch.rand(count, 1, generator=generator) < 0.5).to(device)
        columns = torch.where(mirrored, columns.flip(1), columns)
    # One flat index into [n, C, H+2·up, W+2·side] per output pixel: gathered in one pass.
    plane = padded.shape[2] * padded.shape[3]
    index = (rows * padded.shape[3]).view(count, 1, height, 1) + columns.view(count, 1, 1, width)
    index = index.expand(count, channels, height, width).reshape(count, channels, height * width)
    return padded.reshape(count, channels, plane).gather(2, index).view(count, channels, height, width)
