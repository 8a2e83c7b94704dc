"""OpenVINO files: two that travel together, checked in OpenVINO itself."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch

import podar
from tests.exporters.networks import ConvNet

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
