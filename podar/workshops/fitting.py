"""Brings a data set of pictures to the shape that a model takes, and sees that both have the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import nn

from podar import data
from podar.data import Dataset
from podar.errors import PodarError
from podar.model.example_inputs import random_images, runs
from podar.model.inputs import call
from podar.model.outputs import main_output

if TYPE_CHECKING:
    from podar.workshops.contract import Source

_SIDES = (32, 64, 128, 224)


def fitting_data(source: Source, spec: str, image_size: int | None) -> tuple[Dataset, list[str]]:
    """Load a data set in a shape that the model takes: its own, else with other channels, else in another size.

    **Returns:** The data, and what is to be said where its pictures were converted.

    **Raises:** `PodarError` where the model takes no pictures, or none that these can be brought to.
    """
    name, model = source.called, source.model
    dataset = data.load(spec, image_size=image_size)
    channels, height, width = dataset.shape
    if runs(model, random_images(channels, height, width)):
        return dataset, []
    own = source.inputs()
    if isinstance(own, Mapping):
        own = own.get("pixel_values")
    if not isinstance(own, torch.Tensor) or own.dim() != 4:
        raise PodarError(f"{name} takes no images, and {spec} is a data set of images.")
    own_channels, own_side = own.shape[1], own.shape[3]
    sides = [image_size] if image_size else sorted({side for side in _SIDES if side > width} | {own_side})
    shapes = [(own_channels, height, width)] if image_size is None else []
    shapes += [(own_channels, side, side) for side in sides]
    for shape in shapes:
        if runs(model, random_images(*shape)):
            side = image_size or (None if shape[1:] == (height, width) else shape[1])
            converted = data.load(spec, image_size=side, channels=shape[0])
            was, now = ("×".join(map(str, s)) for s in (dataset.shape, converted.shape))
            return converted, [f"the images of {spec} are {was} and go into {name} as {now}."]
    raise PodarError(
        f"{name} takes images of {own_channels}×{own_side}×{own_side}, and {spec} cannot be brought to that."
    )


def check_classes(model: nn.Module, dataset: Dataset, name: str) -> None:
    """See that a model is a classifier with as many outputs as the data have classes; data without labels fit any.

    **Raises:** `PodarError` that says both numbers, and how to give the model the right one.
    """
    if not dataset.labelled:
        return
    with torch.no_grad():
        outputs = call(model, dataset.train[0][0].unsqueeze(0))
    try:
        shape = tuple(main_output(outputs).shape)
    except PodarError as error:
        raise PodarError(f"{name} is no classifier, and {dataset.name} has classes: {error}") from error
    if len(shape) != 2:
        raise PodarError(f"{name} is no classifier (its output has the shape {shape}), and {dataset.name} has classes.")
    if shape[1] != len(dataset.classes):
        count = len(dataset.classes)
        raise PodarError(
            f"{dataset.name} has {count} classes and {name} has {shape[1]} outputs: add "
            f"--model-arg num_classes={count}. Pictures of other classes serve without labels, in one folder without "
            "sub-folders."
        )
