"""A folder of pictures, one sub-folder a class; train, test and val folders above them where it is split."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from podar.data.register import Found, Part, data_source
from podar.errors import PodarError

SUFFIXES = frozenset(".bmp .gif .jpeg .jpg .pgm .png .ppm .tif .tiff .webp".split())
_SPLITS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
}
UNLABELLED = ""
"""Stands for the class of pictures that lie in no folder of a class."""

_SIDE = 224  # of pictures that differ in size, unless the user says another


@data_source(
    "FOLDER",
    help="a folder of pictures, one sub-folder a class; without sub-folders they have no labels",
    accepts=lambda spec: Path(spec).expanduser().is_dir(),
    general=True,
)
def read(spec: str, image_size: int | None, channels: int | None) -> Found:
    """Read `FOLDER/CLASS/*.jpg` or `FOLDER/train/CLASS/*.jpg` beside `FOLDER/test` or `FOLDER/val`.

    Pictures that lie in the folder itself, or in its train and test folders, have no labels.

    Pictures of one size keep it, others are brought to 224 pixels; they stay grey if all are. Where they fit, they are
    decoded into memory, else when they are used.

    **Raises:** `PodarError` for a folder without pictures, splits of other classes, and pictures
    that do not decode.
    """
    import torch

    from podar.data.pictures.pixels import Decoded, held

    root = Path(spec).expanduser()
    splits = {_SPLITS[f.name.lower()]: f for f in _folders(root) if f.name.lower() in _SPLITS}
    if "train" not in splits:
        splits = {"all": root}
    listed = {split: _by_class(folder) for split, folder in splits.items()}
    classes = tuple(listed.get("train", listed.get("all", {})))
    for split, files in listed.items():
        strange = sorted(set(files) - set(classes))
        if strange:
            if strange == [UNLABELLED] or classes == (UNLABELLED,):
                raise PodarError(
                    f"the pictures in {splits[split if strange == [UNLABELLED] else 'train']} have no labels, those of "
                    "the other split have: put each into a folder of its class, or none."
                )
            raise PodarError(
                f"{splits[split] / strange[0]} is a class that {splits['train']} does not have: "
                "the splits need the same class folders."
            )
    paths = [path for files in listed.values() for inside in files.values() for path in inside]
    shape = common_shape(partial(_open, paths), [str(path) for path in paths], image_size, channels)
    parts = {}
    for split, files in listed.items():
        own = [path for inside in files.values() for path in inside]
        labels = torch.tensor([classes.index(name) for name, inside in files.items() for _ in inside])
        parts[split] = Part(held(Decoded(partial(_open, own), [str(path) for path in own], shape)), labels, shape)
    return Found(root.resolve().name, parts, () if classes == (UNLABELLED,) else classes)


def common_shape(
    open_image: Callable[[int], Any], names: Sequence[str], image_size: int | None, channels: int | None
) -> tuple[int, int, int]:
    """(C, H, W) to which pictures are brought, from their headers alone.

    **Raises:** `PodarError` that names the first file that is no picture, and how many there are.
    """
    sizes: set[tuple[int, int]] = set()
    grey = True
    bad: list[str] = []
    for number, name in enumerate(names):
        try:
            with open_image(number) as image:
                turned = image.getexif().get(0x0112, 1) >= 5  # EXIF orientation: lies on its side
                sizes.add(image.size[::-1] if turned else image.size)
                grey = grey and (image.mode in ("L", "1") or image.mode.startswith("I"))
        except (OSError, ValueError, SyntaxError, EOFError) as error:
            bad.append(f"{name} ({'not a picture' if 'identify' in str(error) else str(error).rstrip('.')})")
    if bad:
        from podar.data.pictures.pixels import undecodable

        raise undecodable(bad, len(names))
    if image_size:
        width = height = image_size
    else:
        width, height = sizes.pop() if len(sizes) == 1 else (_SIDE, _SIDE)
    return (channels or (1 if grey else 3), height, width)


def _open(paths: Sequence[Path], number: int) -> Any:
    from PIL import Image

    try:
        return Image.open(paths[number])
    except ImportError as error:  # Ultralytics, once it is imported, looks for further packages first
        raise OSError("cannot identify image file") from error
    except Image.DecompressionBombError as error:
        raise OSError(f"its {str(error).partition('(')[2].partition(' pixels')[0]} pixels are too many") from error


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _images(folder: Path) -> list[Path]:
    return sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")
    )


def _by_class(folder: Path) -> dict[str, list[Path]]:
    files = {sub.name: images for sub in _folders(folder) if (images := _images(sub))}
    if files:
        return files
    own = [path for path in _images(folder) if path.parent == folder]
    if own:
        return {UNLABELLED: own}
    raise PodarError(f"{folder} holds no images: podar looks for {folder / 'CLASS' / 'image.jpg'} and the like.")
