"""Data by name or path: what comes out, and one sentence for everything that cannot be trained on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import podar.recover
from podar import data
from podar.errors import PodarError, UsageError


def arrays(count: int = 40, classes: int = 2) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    return {"images": rng.integers(0, 256, (count, 8, 8), dtype=np.uint8), "labels": np.arange(count) % classes}


def write(path: Path, **changes: Any) -> str:
    kept = {name: array for name, array in {**arrays(), **changes}.items() if array is not None}
    np.savez(path, **kept)
    return str(path)


def folder(root: Path, classes: tuple[str, ...] = ("cat", "dog"), count: int = 10) -> Path:
    rng = np.random.default_rng(0)
    for name in classes:
        (root / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(root / name / f"{number}.png")
    return root


def test_the_packaged_subset_is_what_it_says() -> None:
    found = data.load("fashion-mnist-demo")
    assert (len(found.train), len(found.test), found.shape, len(found.classes)) == (12_000, 10_000, (1, 28, 28), 10)
    assert torch.bincount(found.train.labels).tolist() == [1200] * 10
    assert torch.bincount(found.test.labels).tolist() == [1000] * 10
    inputs, _ = found.train.batch(torch.arange(0, 12_000, 5))
    assert abs(float(inputs.mean())) < 0.02 and abs(float(inputs.std()) - 1) < 0.02


def test_an_npz_is_split_alike_every_time_with_every_class_in_its_share(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz")
    one, two = data.load(path), data.load(path)
    assert (len(one.train), len(one.test)) == (32, 8)
    assert torch.equal(one.train.rows, two.train.rows)
    assert not set(one.train.rows.tolist()) & set(one.test.rows.tolist())
    assert torch.bincount(one.test.labels).tolist() == [4, 4]


def test_names_as_labels_become_classes(tmp_path: Path) -> None:
    labels = np.array(["dog", "cat"] * 20)
    found = data.load(write(tmp_path / "x.npz", labels=labels))
    assert found.classes == ("cat", "dog")


def test_an_image_folder_is_read_with_its_classes(tmp_path: Path) -> None:
    found = data.load(str(folder(tmp_path / "pets")))
    assert (found.name, found.classes, found.shape) == ("pets", ("cat", "dog"), (3, 8, 8))
    assert (len(found.train), len(found.test)) == (16, 4)
    assert data.load(str(tmp_path / "pets"), image_size=12, channels=1).train[0][0].shape == (1, 12, 12)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": np.zeros(40, int)}, r"has one class"),
        ({"labels": np.arange(39) % 2}, r"40 pictures and 39 labels"),
        ({"labels": np.full(40, -1)}, r"40 negative labels"),
        ({"labels": np.full(40, 0.5)}, r"no whole numbers; the first is 0\.5"),
        ({"labels": np.eye(40)}, r"one-hot rows"),
        ({"labels": np.arange(40) % 2 * 2}, r"show the class 1"),
        ({"images": np.full((40, 8, 8), np.nan)}, r"NaN or infinite pixels in 40 of 40"),
        ({"images": np.zeros((40, 8), np.uint8)}, r"the shape \(40, 8\): give pictures"),
        ({"images": np.zeros((0, 8, 8), np.uint8), "labels": np.zeros(0, int)}, r"holds no pictures"),
        ({"images": np.array([object()] * 40)}, r"Python objects"),
        ({"images": None, "labels": None, "z": np.zeros(3)}, r"holds z: podar reads x_train"),
    ],
)
def test_arrays_that_cannot_be_trained_on(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PodarError, match=message) as caught:
        data.load(write(tmp_path / "x.npz", **changes))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no zip at all", None])
def test_a_damaged_npz_is_said(tmp_path: Path, content: bytes | None) -> None:
    path = Path(write(tmp_path / "x.npz"))
    path.write_bytes(path.read_bytes()[:1000] if content is None else content)
    with pytest.raises(PodarError, match=r"x\.npz cannot be read"):
        data.load(str(path))


def test_folders_that_cannot_be_trained_on(tmp_path: Path) -> None:
    with pytest.raises(PodarError, match=r"did you mean .*pets"):
        folder(tmp_path / "pets")
        data.load(str(tmp_path / "pet"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(PodarError, match="holds no images"):
        data.load(str(tmp_path / "empty"))
    with pytest.raises(PodarError, match=r"has one class \(cat\)"):
        data.load(str(folder(tmp_path / "one", ("cat",))))


def test_pictures_without_labels_have_no_classes_and_teach_nothing(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets") / "cat"
    for spec in (str(root), write(tmp_path / "x.npz", labels=None)):
        found = data.load(spec)
        assert found.classes == () and not found.labelled and not found.train.labelled
        assert len(found.train) == 4 * len(found.test) > 0
        with pytest.raises(PodarError, match="needs labels"):
            podar.recover.accuracy(torch.nn.Flatten(), found.test)
        with pytest.raises(PodarError, match="needs labels"):
            podar.finetune(
                torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(math.prod(found.shape), 3)), found, epochs=1
            )


def test_pictures_of_which_some_have_labels_are_refused(tmp_path: Path) -> None:
    images, labels = np.zeros((40, 8, 8), np.uint8), np.arange(40) % 2
    np.savez(tmp_path / "x.npz", x_train=images, y_train=labels, x_test=images)
    with pytest.raises(PodarError, match=r"has pictures \(x_test\) and no labels: add the array y_test"):
        data.load(str(tmp_path / "x.npz"))
    root = tmp_path / "pets"
    folder(root / "train")
    (folder(tmp_path / "other") / "cat").rename(root / "test")
    with pytest.raises(PodarError, match="have no labels, those of the other split have"):
        data.load(str(root))


def test_images_that_do_not_decode_are_named_and_counted(tmp_path: Path) -> None:
    root = folder(tmp_path / "pets")
    for name in ("3.png", "4.png"):
        (root / "cat" / name).write_bytes(b"no picture")
    with pytest.raises(PodarError, match=r"2 of 20 images do not decode; the first is .*3\.png"):
        data.load(str(root))
    for name in ("3.png", "4.png"):
        whole = (root / "cat" / "5.png").read_bytes()
        (root / "cat" / name).write_bytes(whole if name == "4.png" else whole[: len(whole) // 2])
    with pytest.raises(PodarError, match=r"1 of 20 images does not decode"):
        data.load(str(root))


def test_a_mistyped_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(PodarError, match="did you mean fashion-mnist"):
        data.load("fashon-mnist")


def test_arguments_that_make_no_sense(tmp_path: Path) -> None:
    path = write(tmp_path / "x.npz")
    for options in ({"image_size": 0}, {"channels": 2}, {"max_train": 1}):
        with pytest.raises(UsageError):
            data.load(path, **options)
    with pytest.raises(UsageError, match="between 0 and 1"):
        data.carve(data.load(path).train, 1.0)


def test_grey_floats_become_three_channels() -> None:
    image, _ = data.load("digits", channels=3).train[0]
    assert image.shape == (3, 8, 8) and torch.equal(image[0], image[2])


def test_a_carved_part_is_disjoint_and_in_every_class_share(tmp_path: Path) -> None:
    train = data.load(write(tmp_path / "x.npz", **arrays(100, 4))).train
    rest, taken = data.carve(train, 0.25, seed=1)
    assert sorted(rest.rows.tolist() + taken.rows.tolist()) == sorted(train.rows.tolist())
    assert torch.bincount(taken.labels).tolist() == [5] * 4
