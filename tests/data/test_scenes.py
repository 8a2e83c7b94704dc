"""Composed scenes: labels of the right kind within the picture, the same files for the same seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from podar.data.scenes import KEYPOINTS, TASKS, _deck, compose
from podar.errors import UsageError

SMALL = {"scenes": (4, 2), "side": 96, "photographs": "fashion-mnist-demo"}


def _rows(folder: Path) -> list[list[float]]:
    return [
        [float(word) for word in line.split()]
        for path in sorted(folder.rglob("*.txt"))
        for line in path.read_text().split("\n")
        if line
    ]


@pytest.mark.parametrize("task", [task for task in TASKS if task != "classify"])
def test_labels_are_of_the_tasks_kind_and_within_the_picture(tmp_path: Path, task: str) -> None:
    data = yaml.safe_load(compose(tmp_path, task=task, **SMALL).read_text())
    rows = _rows(tmp_path / "labels")
    assert len(rows) >= 6
    for label, *values in rows:
        assert label in range(len(data["names"]))
        assert len(values) == {"detect": 4, "obb": 8, "pose": 4 + 3 * len(KEYPOINTS)}.get(task, len(values))
        if task == "segment":
            assert len(values) >= 6 and len(values) % 2 == 0
        coordinates = [v for at, v in enumerate(values) if task != "pose" or at < 4 or (at - 4) % 3 != 2]
        assert min(coordinates) >= 0 and max(coordinates) <= 1
        if task in ("detect", "pose"):
            x, y, width, height = values[:4]
            assert x - width / 2 >= -1e-5 and x + width / 2 <= 1 + 1e-5
            assert y - height / 2 >= -1e-5 and y + height / 2 <= 1 + 1e-5


def test_the_same_seed_writes_the_same_files(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        compose(tmp_path / name, seed=seed, **SMALL)
    contents = [[p.read_bytes() for p in sorted((tmp_path / n / "images").rglob("*.png"))] for n in ("a", "b", "c")]
    assert contents[0] == contents[1]
    assert contents[0] != contents[2]


def test_no_photograph_comes_again_before_all_have_come() -> None:
    labels = np.array([0, 1, 2, 1, 0, 2, 2])
    deck = _deck(labels, [1, 2], np.random.default_rng(0))
    drawn = [next(deck) for _ in range(10)]
    assert sorted(row for row, _ in drawn[:5]) == [1, 2, 3, 5, 6]
    assert all(labels[row] == [1, 2][label] for row, label in drawn)


def test_an_unknown_class_names_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean Sneaker"):
        compose(tmp_path, classes=("Sneakers",), **SMALL)
