"""A folder of Hugging Face datasets: what `save_to_disk` writes, or Parquet files of pictures and labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from podar.data.imagefolder import common_shape
from podar.data.register import Found, Part, data_source
from podar.errors import PodarError, first_line, require

_SAVED = ("dataset_dict.json", "state.json", "dataset_info.json")
_LABELS = ("label", "labels", "fine_label", "class", "target")
_SPLITS = {"train": "train", "test": "test", "validation": "validation", "val": "validation", "valid": "validation"}


def _accepts(spec: str) -> bool:
    folder = Path(spec).expanduser()
    return folder.is_dir() and (any((folder / name).is_file() for name in _SAVED) or any(folder.rglob("*.parquet")))


@data_source(
    "HUGGING FACE FOLDER",
    help="a folder of Hugging Face datasets",
    accepts=_accepts,
    package="datasets",
    extra="data",
)
def read(spec: str, image_size: int | None, channels: int | None) -> Found:
    """Read a local data set with one column of pictures and one of labels (a ClassLabel, or one named `label`).

    **Raises:** `PodarError` where the package datasets is not installed, the folder is damaged, or a column is missing.
    """
    from podar.data.pictures.checks import whole_labels
    from podar.data.pictures.pixels import Decoded, held

    folder = Path(spec).expanduser()
    splits = _load(folder)
    known = {_SPLITS[name]: rows for name, rows in splits.items() if name in _SPLITS}
    if "train" not in known:
        known = {"all": next(iter(splits.values()))}
    first = next(iter(known.values()))
    image, label = _columns(first, folder)
    names = getattr(first.features[label], "names", None)
    labels = {split: whole_labels(np.array(rows[label]), f"{folder}: {label}") for split, rows in known.items()}
    if names is None:
        names = [str(number) for number in range(max(int(n.max()) for n in labels.values() if len(n)) + 1)]
    shapes = {
        common_shape(partial(_open, rows, image), _names(folder, split, len(rows)), image_size, channels)
        for split, rows in known.items()
    }
    if len(shapes) > 1:
        told = ", ".join("×".join(map(str, shape)) for shape in sorted(shapes))
        raise PodarError(f"the splits of {folder} have pictures of different shapes ({told}): give --image-size.")
    shape = shapes.pop()
    parts: dict[str, Part] = {}
    for split, rows in known.items():
        pictures = Decoded(partial(_open, rows, image), _names(folder, split, len(rows)), shape)
        parts[split] = Part(held(pictures), labels[split], shape)
    return Found(folder.resolve().name, parts, tuple(names))


def _load(folder: Path) -> dict[str, Any]:
    datasets = require("datasets", extra="data")
    try:
        if any((folder / name).is_file() for name in _SAVED):
            loaded = datasets.load_from_disk(str(folder))
        else:
            loaded = datasets.load_dataset(str(folder))
    except Exception as error:  # many kinds, all of which say the same: the folder is not readable
        raise PodarError(
            f"{folder} cannot be read as a folder of Hugging Face datasets ({first_line(error)})."
        ) from error
    return dict(loaded) if isinstance(loaded, dict) else {"all": loaded}


def _columns(rows: Any, folder: Path) -> tuple[str, str]:
    features = rows.features
    kinds = {name: type(feature).__name__ for name, feature in features.items()}
    images = [name for name, kind in kinds.items() if kind == "Image"]
    labels = [name for name, kind in kinds.items() if kind == "ClassLabel"]
    labels += [name for name in _LABELS if name in features and name not in labels]
    columns = ", ".join(f"{name} ({kind})" for name, kind in kinds.items())
    if not images:
        raise PodarError(f"{folder} has no column of pictures: its columns are {columns}.")
    if not labels:
        raise PodarError(f"{folder} has no labels: its columns are {columns}; name the column of class numbers label.")
    return images[0], labels[0]


def _names(folder: Path, split: str, count: int) -> list[str]:
    return [f"{folder}: {split} row {number}" for number in range(count)]


def _open(rows: Any, column: str, number: int) -> Any:
    from PIL import Image

    try:
        return rows[number][column]
    except Image.DecompressionBombError as error:
        raise OSError("its pixels are too many") from error
