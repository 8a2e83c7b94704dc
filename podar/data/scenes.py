"""Composes detection data sets in Ultralytics' format from real photographs of single things (Fashion-MNIST).

Each scene shows one to six photographs on a background of its own, at scales from a seventh to a half of the side,
turned, tinted, overlapping, under uneven light and with a camera's noise. The labels come from the silhouettes and are
of the kind that the task wants. Validation scenes are made of other photographs than training scenes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from podar.data import fashion
from podar.data.pictures.writing import write_picture
from podar.errors import UsageError, did_you_mean
from podar.files import write_atomic

TASKS = ("detect", "segment", "pose", "obb", "classify")
KEYPOINTS = ("top", "right", "bottom", "left")  # outermost points of a silhouette: what pose models look for
CLASSES = ("T-shirt/top", "Trouser", "Dress", "Sneaker", "Bag", "Ankle boot")  # people tell them apart at any size
_VISIBLE = 0.7  # of a thing must stay uncovered
_MOST, _SMALLEST, _LARGEST = 6, 1 / 7, 1 / 2


@dataclass(frozen=True)
class Thing:
    """One photograph in a scene: its class and, in pixels of the scene, silhouette points and rectangle.

    - `outline`: float [n, 2], a closed polygon (x, y). `box`: its (left, top, right, bottom).
    - `corners`: float [4, 2], the rectangle that was turned with the photograph.
    """

    label: int
    outline: np.ndarray
    corners: np.ndarray

    @property
    def box(self) -> tuple[float, float, float, float]:
        (left, top), (right, bottom) = self.outline.min(0), self.outline.max(0)
        return float(left), float(top), float(right), float(bottom)


def compose(
    folder: str | Path,
    *,
    scenes: tuple[int, int] = (600, 200),
    side: int = 160,
    task: str = "detect",
    classes: Sequence[str] = CLASSES,
    photographs: str = "fashion-mnist",
    seed: int = 0,
) -> Path:
    """Write a data set of composed scenes; the same arguments write the same files.

    **Arguments:**

    - `folder`: where to; `images/train`, `images/val` and their labels go into it.
    - `scenes`: how many for training and for validation.
    - `side`: of a scene, in pixels.
    - `task`: whose labels to write: detect, segment, pose (the silhouette's outermost points), obb or classify (folders
      of scenes with one photograph each).
    - `classes`: which of Fashion-MNIST's ten. `photographs`: "fashion-mnist" or the packaged "fashion-mnist-demo".

    **Returns:** The path to give as `data`: data.yaml, for classify the folder.

    **Raises:** `UsageError` for an unknown task or class; `PodarError` where the photographs are not at hand.

    ```python
    data = compose("scenes", scenes=(600, 200), side=160)
    YOLO("yolo26n.yaml").train(data=data, imgsz=160)
    ```
    """
    for what, names, known in (("task", [task], TASKS), ("class", classes, fashion.CLASSES)):
        for name in names:
            if name not in known:
                raise UsageError(f"there is no {what} {name!r} of scenes{did_you_mean(name, known)}")
    root = Path(folder)
    read = fashion.read_demo if photographs.endswith("-demo") else fashion.read
    found = read(photographs, None, None)
    for at, (split, part, count) in enumerate((("train", "train", scenes[0]), ("val", "test", scenes[1]))):
        rng = np.random.default_rng((seed, at))
        pixels, labels = found.parts[part].pixels, found.parts[part].labels
        deck = _deck(labels.numpy(), [fashion.CLASSES.index(name) for name in classes], rng)
        for number in range(count):
            drawn = [next(deck) for _ in range(1 if task == "classify" else rng.integers(1, _MOST + 1))]
            rows = [row for row, _ in drawn]
            pictures = pixels(labels.new_tensor(rows)).numpy()[:, 0]
            image, things = _scene(list(zip(pictures, [label for _, label in drawn])), side, rng)
            if task == "classify":
                name = classes[things[0].label].replace("/", " or ")
                _write_image(root / split / name / f"{number:05d}.png", image)
                continue
            _write_image(root / "images" / split / f"{number:05d}.png", image)
            lines = [_line(thing, task, side) for thing in things]
            write_atomic(root / "labels" / split / f"{number:05d}.txt", "".join(f"{line}\n" for line in lines))
    if task == "classify":
        return root.resolve()
    content = {"path": str(root.resolve()), "train": "images/train", "val": "images/val", "names": list(classes)}
    if task == "pose":
        content |= {"kpt_shape": [len(KEYPOINTS), 3], "flip_idx": [0, 3, 2, 1]}
    write_atomic(root / "data.yaml", yaml.safe_dump(content, sort_keys=False))
    return (root / "data.yaml").resolve()


def _deck(labels: np.ndarray, wanted: list[int], rng: np.random.Generator):
    """Endless (row, class) pairs in random order; no photograph comes again before all have come."""
    rows = np.flatnonzero(np.isin(labels, wanted))
    while True:
        for row in rng.permutation(rows):
            yield int(row), wanted.index(int(labels[row]))


def _scene(drawn: list[tuple[np.ndarray, int]], side: int, rng: np.random.Generator) -> tuple[np.ndarray, list[Thing]]:
    """One picture, float [side, side, 3] from 0 to 1, and what is to be seen in it."""
    canvas = _background(side, rng)
    taken = np.zeros((side, side), bool)
    things: list[Thing] = []
    for picture, label in drawn:
        for _ in range(10):  # places, until one leaves what was there visible
            size = side * math.exp(rng.uniform(math.log(_SMALLEST), math.log(_LARGEST)))
            shade, cover, corners = _turned(picture, size, rng.uniform(-30, 30))
            height, width = cover.shape
            area = int((cover > 0.5).sum())
            if area < 30 or max(height, width) >= side:
                continue
            top, left = (int(rng.integers(0, side - extent + 1)) for extent in (height, width))
            window = (slice(top, top + height), slice(left, left + width))
            if (taken[window] & (cover > 0.5)).sum() > (1 - _VISIBLE) * area:
                continue
            if any(_covered(thing, left, top, left + width, top + height) > 1 - _VISIBLE for thing in things):
                continue
            taken[window] |= cover > 0.5
            tint = rng.uniform(0.5, 1.0, 3)
            canvas[window] = canvas[window] * (1 - cover[..., None]) + shade[..., None] * tint * cover[..., None]
            offset = np.array([left, top], float)
            things.append(Thing(label, _outline(cover > 0.5) + offset, corners + offset))
            break
    if not things:  # only where the side is tiny
        return _scene(drawn, side, rng)
    light = np.linspace(rng.uniform(0.6, 1.0), rng.uniform(0.6, 1.0), side)
    canvas *= light[None, :, None] if rng.random() < 0.5 else light[:, None, None]
    canvas += rng.normal(0, rng.uniform(0.005, 0.04), canvas.shape)
    return canvas.clip(0, 1), things


def _background(side: int, rng: np.random.Generator) -> np.ndarray:
    """Soft clouds of two colours with a few darker and lighter bars, as shelves and walls have."""
    coarse = rng.random((int(rng.integers(3, 9)),) * 2)
    clouds = np.asarray(Image.fromarray((coarse * 255).astype(np.uint8)).resize((side, side), Image.Resampling.BICUBIC))
    mix = clouds[..., None] / 255
    one, other = rng.uniform(0.05, 0.6, 3), rng.uniform(0.05, 0.6, 3)
    canvas = one * mix + other * (1 - mix)
    for _ in range(rng.integers(0, 5)):
        start, width = int(rng.integers(0, side)), int(rng.integers(2, side // 6))
        bar = (
            (slice(start, start + width), slice(None))
            if rng.random() < 0.5
            else (slice(None), slice(start, start + width))
        )
        canvas[bar] *= rng.uniform(0.6, 1.4)
    return canvas


def _turned(picture: np.ndarray, size: float, degrees: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A photograph [28, 28] enlarged and turned: brightness, cover (both 0 to 1) and the turned rectangle's corners.

    All three are cropped to the silhouette, whose longer side was `size` pixels before it was turned.
    """
    rows, columns = np.nonzero(picture > 20)
    cut = picture[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
    factor = size / max(cut.shape)
    shape = [max(round(extent * factor), 3) for extent in cut.shape[::-1]]
    margin = math.ceil(max(shape) * 0.5)
    grown = np.pad(np.asarray(Image.fromarray(cut).resize(tuple(shape), Image.Resampling.BICUBIC)), margin)
    middle = [extent / 2 + margin for extent in shape]
    turned = Image.fromarray(grown).rotate(degrees, Image.Resampling.BICUBIC, center=tuple(middle))
    shade = np.asarray(turned).astype(float) / 255
    cover = (shade * 255 / 40).clip(0, 1)
    angle = math.radians(degrees)
    half = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * np.array(shape) / 2
    turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    corners = half @ turn + middle
    rows, columns = np.nonzero(cover > 0.5)
    if len(rows) == 0:
        return shade[:0], cover[:0], corners
    window = (slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1))
    return 0.15 + 0.85 * shade[window], cover[window], corners - [columns.min(), rows.min()]


def _outline(cover: np.ndarray) -> np.ndarray:
    """A silhouette's polygon: the right end of each row downwards, then the left end of each row upwards."""
    right, left = [], []
    for y in range(0, len(cover), max(len(cover) // 16, 1)):
        columns = np.flatnonzero(cover[y])
        if len(columns):
            right.append((columns[-1] + 1, y + 0.5))
            left.append((columns[0], y + 0.5))
    points = np.array(right + left[::-1], float)
    points[:, 1] = points[:, 1].clip(0, len(cover))
    return points


def _covered(thing: Thing, left: int, top: int, right: int, bottom: int) -> float:
    """How much of a thing's box a rectangle hides."""
    x0, y0, x1, y1 = thing.box
    width, height = min(x1, right) - max(x0, left), min(y1, bottom) - max(y0, top)
    return max(width, 0) * max(height, 0) / max((x1 - x0) * (y1 - y0), 1e-9)


def _line(thing: Thing, task: str, side: int) -> str:
    """A thing as its line of a label file: class, then coordinates as fractions of the side."""
    left, top, right, bottom = thing.box
    box = np.array([(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]) / side
    if task == "segment":
        values = thing.outline.clip(0, side).ravel() / side
    elif task == "obb":
        values = thing.corners.clip(0, side).ravel() / side
    elif task == "pose":
        outermost = [thing.outline[pick] for pick in (
            thing.outline[:, 1].argmin(), thing.outline[:, 0].argmax(),
            thing.outline[:, 1].argmax(), thing.outline[:, 0].argmin(),
        )]  # fmt: skip
        values = np.concatenate([box, *([*(point.clip(0, side) / side), 2] for point in outermost)])
    else:
        values = box
    return " ".join([str(thing.label), *(f"{value:.6g}" for value in values)])


def _write_image(path: Path, image: np.ndarray) -> None:
    write_picture(path, (image * 255).round().astype(np.uint8))
