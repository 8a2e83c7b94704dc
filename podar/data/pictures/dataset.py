"""Dataset and Split: labelled pictures as training and evaluation take them, one by one or in fast batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from podar.data.pictures.augmentation import crop_and_flip
from podar.data.pictures.pixels import Pixels, converted


@dataclass(frozen=True, eq=False)
class Split(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """Labelled pictures: a map-style torch data set that also gives whole batches, which is many times faster.

    - `pixels`: where the pictures come from: row numbers → [n, C, H, W], uint8 or float32.
    - `rows`: int64 [N], which of them belong to this split. `labels`: int64 [N], their classes.
    - `shape`: (C, H, W) as they are given out.
    - `mean`, `std`: per channel, of the training pictures with values from 0 to 1 (float data: as they come).
    - `flip`: whether the mirror image of a picture is of the same class, so that training may flip it.
    - `labelled`: whether the labels say something; where they do not they are all 0, and nobody learns from them.

    `split[i]` is (float32 [C, H, W], standardised; class number).
    """

    pixels: Pixels
    rows: Tensor
    labels: Tensor
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flip: bool = True
    labelled: bool = True

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"picture {index} of {len(self)}")
        inputs, labels = self.batch(torch.tensor([index % len(self)]))
        return inputs[0], int(labels[0])

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (self[index] for index in range(len(self)))

    def batch(
        self, indices: Tensor, *, generator: torch.Generator | None = None, device: torch.device | str = "cpu"
    ) -> tuple[Tensor, Tensor]:
        """Pictures and classes of a batch.

        **Arguments:**

        - `indices`: int64 [n], which pictures.
        - `generator`: where given, the pictures are augmented (random crop with padding, flip) by its numbers.
        - `device`: where the batch is wanted; it goes there as bytes and is augmented and standardised there.

        **Returns:** float32 [n, C, H, W], standardised; int64 [n].
        """
        images = converted(self.pixels(self.rows[indices]).to(device), self.shape)
        if generator is not None:
            images = crop_and_flip(images, generator, flip=self.flip)
        scale = 255.0 if images.dtype == torch.uint8 else 1.0
        shape = (-1, 1, 1)
        mean = torch.tensor(self.mean, device=images.device).mul_(scale).view(shape)
        std = torch.tensor(self.std, device=images.device).mul_(scale).view(shape)
        return images.float().sub(mean).div_(std), self.labels[indices].to(device)

    def subset(self, indices: Tensor) -> Split:
        """The split of these pictures alone; pixels are shared, not copied."""
        return replace(self, rows=self.rows[indices], labels=self.labels[indices])

    def restored(self, image: Tensor) -> Tensor:
        """A picture [C, H, W] that this split gave out, back to values from 0 to 1."""
        shape = (-1, 1, 1)
        return image * torch.tensor(self.std).view(shape) + torch.tensor(self.mean).view(shape)


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set of labelled pictures.

    - `name`: for tables and files.
    - `train`, `test`: the pictures. Test pictures serve no training, no selection and no early stop.
    - `classes`: their names; label k means `classes[k]`. None where the pictures have no labels.
    - `shape`: (channels, height, width) of a picture.
    - `mean`, `std`: per channel, of the training pictures alone; all splits are standardised with them.
    - `validation`: where the data set brings its own; else `carve` takes one out of `train` when one is needed.
    """

    name: str
    train: Split
    test: Split
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    validation: Split | None = None

    @property
    def labelled(self) -> bool:
        """Whether the pictures have labels."""
        return bool(self.classes)
