"""Fashion-MNIST (Xiao et al. 2017): the packaged subset, and all 70,000 pictures, installed or downloaded."""

from __future__ import annotations

import gzip
import hashlib
import io
import lzma
import math
import os
import urllib.error
import urllib.request
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from podar.data.register import Found, Part, data_source
from podar.errors import PodarError
from podar.files import write_atomic

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)  # fmt: skip
ADDRESS = "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/"
PACKAGED = Path(__file__).with_name("fashion-mnist-demo.npz.xz")

# The four files with the MD5 sums that the data set's own README gives, and how many pictures each is of.
_FILES = {
    ("train", "images"): ("train-images-idx3-ubyte.gz", "8d4fb7e6c68d591d4c3dfef9ec88bf0d", 60_000),
    ("train", "labels"): ("train-labels-idx1-ubyte.gz", "25c81989df183df01b3e8a0aad5dffbe", 60_000),
    ("test", "images"): ("t10k-images-idx3-ubyte.gz", "bef4ecab320f06d8554ea6380940ec79", 10_000),
    ("test", "labels"): ("t10k-labels-idx1-ubyte.gz", "bb300cfdad3c16e7a12a480ee83cd310", 10_000),
}
_NAME = "fashion-mnist"


@data_source(
    "fashion-mnist-demo",
    help="22,000 of the photographs of Fashion-MNIST, which come with podar",
    accepts=lambda spec: spec == f"{_NAME}-demo",
    names=(f"{_NAME}-demo",),
)
def read_demo(spec: str, image_size: int | None, channels: int | None) -> Found:
    """12,000 training pictures, 1,200 a class, and all 10,000 test pictures; they come with podar.

    **Raises:** `PodarError` where the packaged file is missing or damaged.
    """
    try:
        with np.load(io.BytesIO(lzma.decompress(PACKAGED.read_bytes()))) as arrays:
            return _found(spec, {name: arrays[name] for name in arrays.files})
    except (OSError, lzma.LZMAError, ValueError, KeyError) as error:
        raise PodarError(f"{PACKAGED} came with podar and cannot be read ({error}): install podar again.") from error


@data_source(_NAME, help="all 70,000 photographs of Fashion-MNIST", accepts=lambda spec: spec == _NAME, names=(_NAME,))
def read(spec: str, image_size: int | None, channels: int | None) -> Found:
    """All 70,000 pictures, from the first of `folders()` that has them, else downloaded into the user's cache.

    **Raises:** `PodarError` where a file is damaged, or the download fails.
    """
    folder = next((folder for folder in folders() if _complete(folder)), None) or download()
    arrays = {}
    for (split, kind), (name, _, count) in _FILES.items():
        shape = (count, 28, 28) if kind == "images" else (count,)
        arrays[f"{'x' if kind == 'images' else 'y'}_{split}"] = _idx(_existing(folder, name), shape)
    return _found(spec, arrays)


def folders() -> Iterator[Path]:
    """Where the four files are looked for, in this order.

    `$PODAR_DATA/fashion-mnist`, `$PODAR_DATA`; datasets/fashion-mnist in the XDG data folders (Debian's package
    dataset-fashion-mnist puts them under /usr/share); podar's own cache.
    """
    if own := os.environ.get("PODAR_DATA"):
        yield from (Path(own).expanduser() / _NAME, Path(own).expanduser())
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    shared = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
    for folder in (home, *shared.split(os.pathsep)):
        yield Path(folder).expanduser() / "datasets" / _NAME
    yield cache()


def cache() -> Path:
    """The folder into which the files are downloaded."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "podar" / _NAME


def download(address: str = ADDRESS) -> Path:
    """Fetch the four files (30 MB) into the cache; those that are there stay. Each is checked before it takes its name.

    **Returns:** Their folder.

    **Raises:** `PodarError` where the address does not answer or a file is not the published one.
    """
    folder = cache()
    for name, checksum, _ in _FILES.values():
        if (folder / name).is_file():
            continue
        try:
            with urllib.request.urlopen(address + name, timeout=30) as answer:
                content = answer.read()
        except (OSError, urllib.error.URLError, ValueError) as error:
            reason = getattr(error, "reason", error)
            raise PodarError(
                f"Fashion-MNIST is not installed and {address}{name} cannot be fetched ({reason}): install Debian's "
                "dataset-fashion-mnist, put the four .gz files into a folder and set PODAR_DATA to it, or use the "
                "packaged fashion-mnist-demo."
            ) from error
        found = hashlib.md5(content, usedforsecurity=False).hexdigest()
        if found != checksum:
            raise PodarError(
                f"what {address}{name} sent is not the published file (MD5 {found} for {checksum}): try again, or put "
                "the four .gz files into a folder and set PODAR_DATA to it."
            )
        write_atomic(folder / name, content)
    return folder


def _complete(folder: Path) -> bool:
    return all(_existing(folder, name).is_file() for name, _, _ in _FILES.values())


def _existing(folder: Path, name: str) -> Path:
    """The file as it is published, or unpacked beside."""
    unpacked = folder / name.removesuffix(".gz")
    return unpacked if unpacked.is_file() else folder / name


def _idx(path: Path, shape: tuple[int, ...]) -> np.ndarray:
    """Read bytes of this shape from an IDX file: two zeros, type 8 (bytes), the rank, then big-endian sizes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise PodarError(f"{path} cannot be read ({error}): remove it or install the data set again.") from error
    header = b"\0\0\x08" + bytes([len(shape)]) + b"".join(size.to_bytes(4, "big") for size in shape)
    if not content.startswith(header) or len(content) != len(header) + math.prod(shape):
        wanted = "×".join(map(str, shape))
        raise PodarError(f"{path} does not hold {wanted} bytes as an IDX file: install the data set again.")
    return np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)


def _found(name: str, arrays: dict[str, np.ndarray]) -> Found:
    import torch

    from podar.data.pictures.pixels import Held

    parts = {}
    for split in ("train", "test"):
        images = torch.from_numpy(arrays[f"x_{split}"].copy()).unsqueeze(1)
        labels = torch.from_numpy(arrays[f"y_{split}"].astype(np.int64))
        parts[split] = Part(Held(images), labels, (1, 28, 28))
    return Found(name, parts, CLASSES)
