"""Kinds of DATA: one function a kind, each registered by `data_source`."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from podar.data.pixels import Pixels


@dataclass(frozen=True, eq=False)
class Part:
    """Pictures with labels as they were found: `shape` is (C, H, W), `labels` class numbers [N]."""

    pixels: Pixels
    labels: Tensor
    shape: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Found:
    """What a kind of DATA reads: parts under "train", "test", "validation", or one under "all" that is to be split.

    `classes`: names by class number. `flip`: whether a mirror image is of the same class.
    """

    name: str
    parts: Mapping[str, Part]
    classes: tuple[str, ...]
    flip: bool = True


Reader = Callable[[str, "int | None", "int | None"], Found]
"""`(spec, image_size, channels) → Found`. Pictures in memory are converted later; files are decoded to the size."""


@dataclass(frozen=True)
class Kind:
    """One kind of DATA: `form` is how help and messages write it, `names` are those that completion offers."""

    form: str
    accepts: Callable[[str], bool]
    names: Iterable[str]
    read: Reader


_KINDS: list[Kind] = []
# In this order: a Hugging Face folder may hold folders of images too.
_MODULES = ("fashion", "digits", "npz", "huggingface", "imagefolder")


def data_source(form: str, accepts: Callable[[str], bool], names: Iterable[str] = ()) -> Callable[[Reader], Reader]:
    """Register a function `(spec, image_size, channels) → Found` for the DATA strings that `accepts` takes."""

    def register(read: Reader) -> Reader:
        _KINDS.append(Kind(form, accepts, tuple(names), read))
        return read

    return register


def kinds() -> list[Kind]:
    """Every kind of DATA; the first that accepts a string reads it."""
    for module in _MODULES:
        importlib.import_module(f"podar.data.{module}")
    return list(_KINDS)
