"""Samples come from all over the data, as the file takes them, with labels where there are any."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from podar.quantization.samples import FileModel, gather, parts
from podar.runtimes import Port

_IMAGE = (Port("x", (None, 2), "float32"),)


class Classwise(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """A thousand samples, class by class, as folders of pictures give them."""

    def __len__(self) -> int:
        return 1000

    def __getitem__(self, place: int) -> tuple[Tensor, int]:
        return torch.full((2,), float(place)), place // 100


def test_samples_are_of_every_class() -> None:
    found, notes = gather(Classwise(), nn.Linear(2, 10), _IMAGE, "the model", 50)
    assert found.count == 50 and found.labels is not None
    assert set(found.labels) == set(range(10)) and not notes
    assert sum(len(feed["x"]) for feed in found.feeds) == 50


def test_a_file_that_takes_four_at_once() -> None:
    ports = (Port("x", (4, 2), "float32"),)
    found, _ = gather([torch.randn(7, 2), torch.randn(5, 2)], nn.Linear(2, 3), ports, "the model", 100)
    assert found.fixed and found.count == 8 and all(len(feed["x"]) == 4 for feed in found.feeds)


def test_targets_that_are_no_classes_are_said() -> None:
    found, notes = gather([(torch.randn(8, 2), torch.randn(8, 7))], nn.Linear(2, 3), _IMAGE, "the model", 100)
    assert found.labels is None and len(notes) == 1


def test_training_and_test_data_are_told_apart() -> None:
    train, test = [torch.zeros(1)], [torch.ones(1)]
    assert parts({"train": train, "test": test}) == (train, test)
    assert parts(train) == (train, None)
    once = (batch for batch in train)
    assert parts(once)[0] == train


def test_a_file_as_a_module_takes_any_number_of_samples() -> None:
    class Four:
        inputs, outputs, version = (Port("x", (4, 2), "float32"),), (Port("y", (4, 2), "float32"),), "none"

        def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
            assert arrays[0].shape == (4, 2)
            return [arrays[0] * 2]

    inputs = torch.randn(7, 2)
    assert torch.equal(FileModel(Four())(inputs), inputs * 2)
