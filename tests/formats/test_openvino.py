"""OpenVINO files: two that travel together, checked in OpenVINO itself."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import podar
from podar.errors import PodarError, UsageError
from tests.formats.networks import ConvNet

ov = pytest.importorskip("openvino")
pytest.importorskip("onnxscript")


def test_the_file_computes_what_the_model_computes(tmp_path) -> None:
    model, images = ConvNet().eval(), torch.randn(3, 3, 8, 8)
    exported = podar.export(model, tmp_path / "net.xml", images[:1])
    assert sorted(os.listdir(tmp_path)) == ["net.bin", "net.xml"]
    assert exported.format == "openvino"
    assert exported.runtime.startswith("openvino 2")
    assert exported.bytes == sum(file.stat().st_size for file in tmp_path.iterdir())
    compiled = ov.Core().compile_model(str(exported.path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    with torch.no_grad():
        np.testing.assert_allclose(compiled(images.numpy())[0], model(images), atol=1e-5)


@pytest.mark.parametrize("name", ["model", "model.bin", "model.onnx", "folder/"])
def test_a_name_that_openvino_would_not_open_is_refused_with_the_right_one(tmp_path, name: str) -> None:
    with pytest.raises(UsageError, match=r"write (model|folder)\.xml"):
        podar.export(ConvNet(32).eval(), f"{tmp_path}/{name}", torch.randn(1, 3, 8, 8), format="openvino")
    assert not list(tmp_path.iterdir())
    with pytest.raises(PodarError, match="is a folder; name a file"):
        podar.export(ConvNet(32).eval(), tmp_path, torch.randn(1, 3, 8, 8), format="openvino")
