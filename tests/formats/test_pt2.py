"""Exported programs: loaded by plain torch."""

from __future__ import annotations

import pytest
import torch

import podar
from podar.errors import PodarError
from tests.formats.networks import Branching, ConvNet


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own loader
def test_the_file_computes_what_the_model_computes(tmp_path) -> None:
    model, images = ConvNet().eval(), torch.randn(3, 3, 8, 8)
    exported = podar.export(model, tmp_path / "net.pt2", images[:1])
    assert exported.dynamic_batch
    (got,) = torch.export.load(exported.path).module()(images)
    torch.testing.assert_close(got, model(images))


def test_a_model_that_torch_export_cannot_follow(tmp_path) -> None:
    with pytest.raises(PodarError, match="cannot follow the model"):
        podar.export(Branching(), tmp_path / "b.pt2", torch.ones(1, 4))
    assert list(tmp_path.iterdir()) == []
