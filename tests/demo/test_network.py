"""The demo's checkpoint: it fits its network, and is as good as its record says."""

from __future__ import annotations

import torch

import podar.data
from podar.demo import build, load_trained
from podar.demo.network import record
from podar.recover import accuracy


def test_the_checkpoint_fits_and_is_as_good_as_its_record_says() -> None:
    model, told = load_trained(), record()
    assert not model.training
    assert sum(p.numel() for p in model.parameters()) == told["params"] == 272_186
    test = podar.data.load("fashion-mnist-demo").test
    some = test.subset(torch.arange(0, len(test), 10))
    # A tenth of the pictures: four standard errors of a fraction near 0.93 are 0.032.
    assert abs(accuracy(model, some) - told["accuracy"]) < 0.032
    assert told["accuracy"] >= 0.925


def test_other_class_counts_build_too() -> None:
    assert build(3)(torch.zeros(2, 1, 28, 28)).shape == (2, 3)
