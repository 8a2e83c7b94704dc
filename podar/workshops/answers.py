"""A few test pictures with the answers of the model before and after, as files that a report shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.data import Dataset
from podar.data.pictures.writing import write_picture
from podar.recover import logits_of

_PICTURES = 12
_SEARCHED = 1000  # test pictures among which the two networks' disagreements are looked for
_SIDE = 160  # pixels


def pictures(dense: nn.Module, model: nn.Module, data: Dataset, folder: Path) -> list[dict[str, Any]]:
    """Write a few test pictures into `folder/pictures`; those on which the two models disagree come first.

    **Returns:** of each its `file`, its `label`, and `before` and `after` with the confidence of each.
    """
    images, labels = data.test.batch(torch.arange(min(_SEARCHED, len(data.test))))
    before, after = (_answers(each, images) for each in (dense, model))
    differ = [i for i in range(len(images)) if before[i][0] != after[i][0]]
    others = [i for i in range(len(images)) if before[i][0] == after[i][0]]
    chosen = differ[: _PICTURES // 2]
    chosen += others[: _PICTURES - len(chosen)]
    shown: list[dict[str, Any]] = []
    for number, i in enumerate(chosen):
        name = f"pictures/{number:02d}.png"
        write_picture(folder / name, _pixels(data.test.restored(images[i])), at_most=_SIDE)
        shown.append({"file": name, "label": data.classes[int(labels[i])]})
        for half, (said, confidence) in (("before", before[i]), ("after", after[i])):
            shown[-1] |= {half: data.classes[said], f"{half}_confidence": confidence}
    return shown


def _answers(model: nn.Module, images: Tensor) -> list[tuple[int, float]]:
    """Class and confidence for each image."""
    model.eval()
    found: list[tuple[int, float]] = []
    with torch.no_grad():
        for batch in images.split(128):
            best = logits_of(model(batch)).float().softmax(dim=1).max(dim=1)
            found += zip(best.indices.tolist(), best.values.tolist())
    return found


def _pixels(image: Tensor) -> np.ndarray:
    """A picture `(C, H, W)` of values from 0 to 1 as bytes [H, W, C], or [H, W] of grey."""
    pixels = (image.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).numpy()
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels
