"""A .npz file of pictures and labels."""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from podar.data.register import Found, Part, data_source
from podar.errors import PodarError, sizes
from podar.trust.memory import free_memory

if TYPE_CHECKING:
    from torch import Tensor

# Pairs of arrays that are known, by split: Keras' names, those of MedMNIST, and a single pair that podar splits.
KEYS = {
    "train": (("x_train", "y_train"), ("train_images", "train_labels")),
    "test": (("x_test", "y_test"), ("test_images", "test_labels")),
    "validation": (("x_val", "y_val"), ("val_images", "val_labels")),
    "all": (("images", "labels"), ("x", "y"), ("X", "y")),
}
_CLASSES = "classes"
_RATIO = 1100  # no zip archive packs better
_DAMAGED = (zipfile.BadZipFile, zlib.error, NotImplementedError, SyntaxError)


@data_source(
    "FILE.npz",
    help="arrays of pictures, and of labels where there are any",
    accepts=lambda spec: spec.endswith(".npz") and Path(spec).expanduser().is_file(),
    suffixes=(".npz",),
)
def read(spec: str, image_size: int | None, channels: int | None) -> Found:
    """Arrays `x_train, y_train, x_test, y_test` (also `x_val, y_val`), or `images, labels`; others are in `KEYS`.

    Pictures are [N, H, W], [N, H, W, C] or [N, C, H, W]; bytes, or floats that stay as they are. Labels are class
    numbers from 0, or names. An array `classes` may hold the names of the numbers. A file without any labels holds
    pictures alone.

    **Raises:** `PodarError` for a damaged file, missing arrays, and shapes or labels that make no sense.
    """
    from podar.data.pictures.pixels import Held

    path = Path(spec).expanduser()
    arrays = _arrays(path)
    parts: dict[str, tuple[Tensor, np.ndarray, str]] = {}
    labelled = any(labels in arrays for pairs in KEYS.values() for _, labels in pairs)
    for split, pairs in KEYS.items():
        for images, labels in pairs:
            if images in arrays and labels not in arrays and labelled:
                raise PodarError(f"{path} has pictures ({images}) and no labels: add the array {labels}.")
            if images in arrays and split not in parts:
                read_images = _images(arrays[images], f"{path}: {images}")
                numbers_of = arrays.get(labels, np.zeros(len(read_images), dtype=np.int64))
                parts[split] = (read_images, numbers_of, f"{path}: {labels}")
    if not parts:
        found = ", ".join(arrays) or "nothing"
        raise PodarError(f"{path} holds {found}: podar reads x_train, y_train, x_test, y_test, or images, labels.")
    if "train" in parts:
        parts.pop("all", None)
    classes, numbers = _classes(path, arrays, {split: (labels, of) for split, (_, labels, of) in parts.items()})
    shapes = {split: tuple(images.shape[1:]) for split, (images, _, _) in parts.items()}
    if len(set(shapes.values())) > 1:
        told = ", ".join(f"{split} {'×'.join(map(str, shape))}" for split, shape in shapes.items())
        raise PodarError(f"{path} has pictures of different shapes ({told}): bring them to one.")
    return Found(
        path.stem,
        {s: Part(Held(images), numbers[s], (images.shape[1], images.shape[2], images.shape[3]))
         for s, (images, _, _) in parts.items()},
        classes if labelled else (),
    )  # fmt: skip


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not zipfile.is_zipfile(path):  # numpy would take it for a pickle, or for an array without a name
        raise PodarError(f"{path} cannot be read as .npz: the file is damaged or something else.")
    try:
        # numpy leaves a file open whose zip turns out to be damaged, so it is opened here.
        _check_sizes(path)
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except ValueError as error:
        if "allow_pickle" in str(error):
            raise PodarError(
                f"{path} holds Python objects, which podar does not unpickle: save plain arrays of numbers."
            ) from error
        raise PodarError(f"{path} cannot be read as .npz ({error}).") from error
    except (OSError, EOFError, KeyError, AttributeError, MemoryError, RuntimeError, *_DAMAGED) as error:
        raise PodarError(f"{path} cannot be read as .npz ({error}): the file is damaged or something else.") from error


def _check_sizes(path: Path) -> None:
    """Look at what the arrays will take before memory is taken: sizes may lie, and zeros pack a thousandfold.

    **Raises:** `PodarError` for arrays that the file cannot hold, or that this machine's memory cannot.
    """
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        for member in members:
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)  # type: ignore[arg-type]
                read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
                shape, _, dtype = read(file)  # type: ignore[arg-type]
            packed = member.file_size <= _RATIO * max(1, member.compress_size)
            if not packed or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > member.file_size:
                raise PodarError(
                    f"{path}: {member.filename[:80]} says that it is {sizes(shape)} {dtype}, which it does not hold: "
                    "the file is damaged or something else."
                )
        needed, free = sum(member.file_size for member in members), free_memory()
        if needed > free:
            raise PodarError(
                f"the arrays of {path} take {needed >> 20:,} MB, and {free >> 20:,} MB of memory are free: give fewer "
                "or smaller pictures, or a folder of them."
            )


def _images(array: np.ndarray, of: str) -> Tensor:
    """Pictures as uint8 or float32 [N, C, H, W]; the channel axis is the one of 1, 3 or 4."""
    import torch

    if array.dtype == np.bool_:
        array = array.astype(np.uint8) * 255
    if array.dtype.kind not in "uif":
        raise PodarError(f"{of} holds {array.dtype}, not pixels: give bytes or floats.")
    if array.ndim == 3:
        array = array[:, None]
    elif array.ndim == 4:
        last, second = array.shape[3] in (1, 3, 4), array.shape[1] in (1, 3, 4)
        if last and not (second and array.shape[2] == array.shape[3]):
            array = array.transpose(0, 3, 1, 2)
        elif not second:
            raise PodarError(
                f"{of} has the shape {array.shape}, in which no axis is of 1, 3 or 4 channels: give N×H×W×C or N×C×H×W."
            )
    else:
        raise PodarError(f"{of} has the shape {array.shape}: give pictures as N×H×W, N×H×W×C or N×C×H×W.")
    if array.dtype != np.uint8:
        kind = array.dtype.kind
        array = array.astype(np.float32)
        if kind in "iu":  # 16 bits and more: values as they come; standardising takes care of the scale
            array = array / np.float32(max(1.0, float(np.abs(array).max(initial=0))))
    return torch.from_numpy(np.ascontiguousarray(array))


def _classes(
    path: Path, arrays: dict[str, np.ndarray], labels: dict[str, tuple[np.ndarray, str]]
) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Class names, and every split's labels as numbers."""
    import torch

    from podar.data.pictures.checks import whole_labels

    if all(array.dtype.kind in "US" for array, _ in labels.values()):
        flat = {split: array.reshape(-1).astype(str) for split, (array, _) in labels.items()}
        names = sorted({name for array in flat.values() for name in np.unique(array).tolist()})
        return tuple(names), {s: torch.from_numpy(np.searchsorted(names, a).astype(np.int64)) for s, a in flat.items()}
    numbers = {split: whole_labels(array, of) for split, (array, of) in labels.items()}
    if _CLASSES in arrays:
        return tuple(str(name) for name in arrays[_CLASSES].tolist()), numbers
    count = max((int(array.max()) for array in numbers.values() if len(array)), default=0) + 1
    return tuple(map(str, range(count))), numbers
