"""What must hold of labelled pictures before anything is trained on them; each breach is one clear sentence."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from podar.data.pictures.pixels import Held
from podar.data.register import Part
from podar.errors import PodarError


def whole_labels(labels: np.ndarray, of: str) -> Tensor:
    """Class numbers of an array of labels.

    **Arguments:** `labels`: [N] or [N, 1] of integers or whole floats; `of`: the file and array, for messages.

    **Returns:** int64 [N].

    **Raises:** `PodarError` for another shape, text, NaN, fractions, negative numbers.
    """
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        hint = ": several labels a picture, or one-hot rows, are not read; give one class number a picture"
        raise PodarError(f"{of} has the shape {labels.shape}{hint if labels.ndim == 2 else ''}.")
    if labels.dtype.kind not in "iufb":
        raise PodarError(f"{of} holds {labels.dtype}, not class numbers: give whole numbers from 0.")
    if labels.dtype.kind == "f":
        odd = np.flatnonzero(~np.isfinite(labels) | (labels != np.round(labels)))
        if len(odd):
            raise PodarError(
                f"{of} has {len(odd)} labels that are no whole numbers; the first is {labels[odd[0]]} "
                f"(row {odd[0]}): podar trains classifiers, whose labels are 0, 1, 2, …"
            )
    negative = np.flatnonzero(labels < 0)
    if len(negative):
        raise PodarError(
            f"{of} has {len(negative)} negative labels; the first is {int(labels[negative[0]])} (row {negative[0]}): "
            "number the classes from 0 and leave out pictures without a class."
        )
    return torch.from_numpy(labels.astype(np.int64))


def check_part(name: str, split: str, part: Part) -> None:
    """Refuse an empty split, pictures and labels of different number, and pixels that are not finite.

    **Raises:** `PodarError`.
    """
    where = name if split == "all" else f"{name} ({split})"
    count = len(part.pixels) if isinstance(part.pixels, Held) else len(part.labels)
    if count != len(part.labels):
        raise PodarError(f"{where} has {count} pictures and {len(part.labels)} labels: each picture needs one label.")
    if not count:
        raise PodarError(f"{where} holds no pictures.")
    if not all(part.shape):
        raise PodarError(f"{where} has pictures of the shape {'×'.join(map(str, part.shape))}, which are empty.")
    if isinstance(part.pixels, Held) and part.pixels.images.is_floating_point():
        bad = ~torch.isfinite(part.pixels.images).flatten(1).all(1)
        if bool(bad.any()):
            raise PodarError(
                f"{where} has NaN or infinite pixels in {int(bad.sum())} of {count} pictures; the first is picture "
                f"{int(bad.int().argmax())}: repair or remove them."
            )


def check_labels(name: str, labels: Mapping[str, Tensor], classes: tuple[str, ...]) -> None:
    """Refuse labels beyond the classes, a single class, and classes that no training picture shows.

    **Raises:** `PodarError`.
    """
    if len(classes) < 2:
        raise PodarError(f"{name} has one class ({classes[0] if classes else 'none'}): a classifier needs two or more.")
    for split, numbers in labels.items():
        if int(numbers.max()) >= len(classes):
            raise PodarError(
                f"{name} ({split}) has the label {int(numbers.max())}, and there are {len(classes)} classes "
                f"(0 to {len(classes) - 1})."
            )
    trained = torch.bincount(labels["train"], minlength=len(classes))
    shown = torch.stack([torch.bincount(numbers, minlength=len(classes)) for numbers in labels.values()]).sum(0)
    unseen = (trained == 0).nonzero().flatten().tolist()
    if int((trained > 0).sum()) < 2:
        only = int(trained.argmax())
        raise PodarError(f"all training pictures of {name} are of one class ({classes[only]}): give two or more.")
    if unseen:
        first = classes[unseen[0]]
        more = f" and {len(unseen) - 1} more classes" if len(unseen) > 1 else ""
        elsewhere = "only test pictures" if shown[unseen[0]] else "no picture"
        raise PodarError(
            f"{name}: {elsewhere} show the class {first}{more}, none to train on: labels must be numbered 0 to "
            "the number of classes - 1, and every class needs training pictures."
        )
