"""Program files: checked against the model, run without torch's help, refused where an operator stays outside."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import podar
from podar.errors import PodarError
from tests.formats.networks import Branching, ConvNet

native = pytest.importorskip("podar_native", reason="podar-native is not built here")

pytestmark = pytest.mark.usefixtures("cache")


def test_the_file_computes_what_the_model_computes(tmp_path: Path) -> None:
    model, images = ConvNet().eval(), torch.randn(3, 3, 8, 8)
    exported = podar.export(model, tmp_path / "net.podar", images[:1])
    assert exported.format == "podar" and exported.dynamic_batch and exported.parity < 1e-4
    (got,) = native.Runner(exported.path)(images.numpy())
    torch.testing.assert_close(torch.from_numpy(got), model(images))


def test_what_no_program_can_be_made_of(tmp_path: Path) -> None:
    class Turned(ConvNet):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image).cumsum(1)

    (tmp_path / "out").mkdir()
    with pytest.raises(PodarError, match=r"no single program: cumsum\.default"):
        podar.export(Turned().eval(), tmp_path / "out" / "t.podar", torch.randn(1, 3, 8, 8))
    with pytest.raises(PodarError, match="cannot follow"):
        podar.export(Branching(), tmp_path / "out" / "b.podar", torch.ones(1, 4))
    assert list((tmp_path / "out").iterdir()) == []
