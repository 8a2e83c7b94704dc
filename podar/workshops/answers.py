"""A few test pictures with the answers of the model before and after, as files that a report shows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from podar.data import Dataset, Split
from podar.data.pictures.writing import write_picture
from podar.errors import PodarError
from podar.model.drift import moved
from podar.recover import logits_of

_PICTURES = 12
_SEARCHED = 1000  # test pictures among which the two networks' disagreements are looked for
_COMPARED = 2000  # pictures on which two models are compared where there are no labels
_SIDE = 160  # pixels


def pictures(dense: nn.Module, model: nn.Module, data: Dataset, folder: Path) -> list[dict[str, Any]]:
    """Write a few test pictures into `folder/pictures`; those on which the two models disagree come first.

    Where the data have no labels, what the dense model answers stands for them, and classes are numbers.

    **Returns:** Of each its `file`, its `label`, and `before` and `after` with the confidence of each; nothing where
    the models are no classifiers.
    """
    images, labels = data.test.batch(torch.arange(min(_SEARCHED, len(data.test))))
    try:
        before, after = (_answers(each, images) for each in (dense, model))
    except PodarError:  # no classifier
        if data.labelled:
            raise
        return []
    if not data.labelled:
        labels = torch.tensor([said for said, _ in before])
    names = data.classes or [str(k) for k in range(1 + max(said for said, _ in (*before, *after)))]
    differ = [i for i in range(len(images)) if before[i][0] != after[i][0]]
    others = [i for i in range(len(images)) if before[i][0] == after[i][0]]
    chosen = differ[: _PICTURES // 2]
    chosen += others[: _PICTURES - len(chosen)]
    shown: list[dict[str, Any]] = []
    for number, i in enumerate(chosen):
        name = f"pictures/{number:02d}.png"
        write_picture(folder / name, _pixels(data.test.restored(images[i])), at_most=_SIDE)
        shown.append({"file": name, "label": names[int(labels[i])]})
        for half, (said, confidence) in (("before", before[i]), ("after", after[i])):
            shown[-1] |= {half: names[said], f"{half}_confidence": confidence}
    return shown


def likeness(dense: nn.Module, model: nn.Module, split: Split) -> dict[str, float]:
    """How a model compares with the dense one on pictures without labels.

    **Returns:** `output_error`: the distance of the outputs over the size of the dense ones; for classifiers also
    `agreement`: the share of pictures of which both say the same class.
    """
    found: dict[str, float] = {}
    images = split.batch(torch.arange(min(_COMPARED, len(split))))[0]
    errors = [(len(some), moved(dense, model, some)) for some in images.split(128)]
    known = [(count, error) for count, error in errors if error is not None]
    if known:
        total = sum(count for count, _ in known)
        found["output_error"] = math.sqrt(sum(count * error**2 for count, error in known) / total)
    try:
        before, after = (_answers(each, images) for each in (dense, model))
    except PodarError:  # no classifier
        return found
    return {"agreement": sum(a[0] == b[0] for a, b in zip(before, after)) / len(images), **found}


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
