"""`load`: finds a data set by name or path, checks it, splits it and standardises it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from podar.data import register
from podar.data.pictures.checks import check_labels, check_part
from podar.data.pictures.dataset import Dataset, Split
from podar.data.pictures.pixels import Pixels, converted
from podar.data.pictures.splitting import stratified
from podar.data.register import Found, Part
from podar.errors import PodarError, UsageError

_TEST_SHARE = 0.2
_SPLIT_SEED = 0  # a data set without a test split is split the same way in every run, or runs could not be compared
_MEASURED = 10_000  # pictures from which mean and standard deviation are taken


def load(
    spec: str, *, image_size: int | None = None, channels: int | None = None, max_train: int | None = None
) -> Dataset:
    """Load pictures, with labels or without.

    **Arguments:**

    - `spec`: `fashion-mnist-demo` (12,000 training and all 10,000 test pictures, packaged), `fashion-mnist` (all
      70,000: installed or downloaded), `digits` (scikit-learn's), an image folder with a sub-folder a class (and
      train, test or val folders above them, if it is split), a .npz file, or a folder of Hugging Face datasets. A
      folder of pictures without sub-folders and a .npz file without labels have no classes: such pictures serve what
      needs none.
    - `image_size`: side in pixels; None keeps the pictures' own size (files of many sizes: 224). Pictures are scaled
      by their short side and the middle is taken.
    - `channels`: 1 (grey) or 3 (RGB); None keeps them.
    - `max_train`: use only so many training pictures, every class in its share.

    A data set without a test split is split 80 to 20, stratified, the same way every time.

    **Returns:** `Dataset`.

    **Raises:** `PodarError` for what is missing, damaged, of one class, not finite or of clashing
    shapes; `UsageError` for arguments that make no sense.

    ```python
    >>> data = load("fashion-mnist-demo")
    >>> len(data.train), len(data.test), data.shape, data.classes[9]
    (12000, 10000, (1, 28, 28), 'Ankle boot')

    ```
    """
    if image_size is not None and image_size < 1:
        raise UsageError(f"an image size of {image_size} pixels makes no sense: give 1 or more.")
    if channels not in (None, 1, 3):
        raise UsageError(f"pictures of {channels} channels cannot be made: give 1 (grey) or 3 (RGB).")
    spec = str(spec)
    found = register.read(spec, image_size, channels)
    for name, part in found.parts.items():
        check_part(found.name, name, part)
    parts = _split(found)
    if found.classes:
        check_labels(found.name, {name: part.labels for name, (part, _) in parts.items()}, found.classes)
    part, rows = parts["train"]
    if max_train is not None:
        rows = _fewer(part.labels, max_train, len(found.classes))
        parts["train"] = (replace(part, labels=part.labels[rows]), parts["train"][1][rows])
        part, rows = parts["train"]
    shape = (
        channels or part.shape[0],
        *((image_size, image_size) if image_size else part.shape[1:]),
    )
    mean, std = _statistics(part.pixels, rows, (shape[0], *part.shape[1:]))
    splits = {
        name: Split(part.pixels, rows, part.labels, shape, mean, std, found.flip, bool(found.classes))
        for name, (part, rows) in parts.items()
    }
    return Dataset(
        found.name, splits["train"], splits["test"], found.classes, shape, mean, std, splits.get("validation")
    )


def _split(found: Found) -> dict[str, tuple[Part, Tensor]]:
    """Every split's part (with the labels of its own rows) and rows; what has no test split is split here."""
    given = dict(found.parts)
    if "all" in given:
        given["train"] = given.pop("all")
    if "train" not in given:
        raise PodarError(f"{found.name} has no training pictures, only {' and '.join(given)}.")
    if "test" not in given and "validation" in given:
        given["test"] = given.pop("validation")
    parts = {name: (part, torch.arange(len(part.labels))) for name, part in given.items()}
    if "test" not in parts:
        whole = given["train"]
        test, train = stratified(whole.labels, max(1, round(_TEST_SHARE * len(whole.labels))), _SPLIT_SEED)
        for name, rows in (("train", train), ("test", test)):
            parts[name] = (replace(whole, labels=whole.labels[rows]), rows)
    return parts


def _fewer(labels: Tensor, count: int, classes: int) -> Tensor:
    if count < classes:
        raise UsageError(f"max_train={count} is fewer than the {classes} classes: give at least one picture a class.")
    return stratified(labels, min(count, len(labels)), _SPLIT_SEED)[0]


def _statistics(
    pixels: Pixels, rows: Tensor, shape: tuple[int, int, int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, of evenly spaced training pictures."""
    if len(rows) > _MEASURED:
        rows = rows[torch.linspace(0, len(rows) - 1, _MEASURED).long()]
    total, squares, count = torch.zeros(shape[0]).double(), torch.zeros(shape[0]).double(), 0
    for some in rows.split(256):
        images = converted(pixels(some), shape)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        images = images.double().div_(scale).transpose(0, 1).flatten(1)
        total += images.sum(1)
        squares += images.square().sum(1)
        count += images.shape[1]
    mean = total / count
    std = (squares / count - mean.square()).clamp(min=0).sqrt()
    std[std < 1e-6] = 1.0  # a channel that never changes
    return tuple(mean.tolist()), tuple(std.tolist())
