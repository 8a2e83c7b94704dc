"""What is particular to ONNX: weights beside the file, the older exporter, inputs that nothing reads."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.formats import onnx as exporter
from podar.runtimes import open_file
from tests.formats.networks import Branching, ConvNet

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def test_weights_too_large_for_one_file_travel_beside_it(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(exporter, "_SIDECAR_BYTES", 1000)  # instead of the 2 GB that a protobuf message can hold
    model, images = ConvNet(32).eval(), torch.randn(1, 3, 8, 8)
    exported = podar.export(model, tmp_path / "big.onnx", images)
    assert sorted(os.listdir(tmp_path)) == ["big.onnx", "big.onnx.data"]
    assert exported.files == (tmp_path / "big.onnx", tmp_path / "big.onnx.data")
    assert exported.bytes == sum(file.stat().st_size for file in exported.files)
    assert exported.path.stat().st_size < exported.files[1].stat().st_size
    session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"image": images.numpy()})[0], model(images), atol=1e-5)

    monkeypatch.undo()  # written again in one file: the old second file would only mislead
    podar.export(model, tmp_path / "big.onnx", images)
    assert os.listdir(tmp_path) == ["big.onnx"]


@pytest.mark.parametrize("opset", [9, 11, 13, 15, 17, 18, 20])
def test_the_file_is_of_the_operator_set_that_was_asked_for(tmp_path, opset: int) -> None:
    import onnx

    model, images = ConvNet(32).eval(), torch.randn(1, 3, 8, 8)
    exported = podar.export(model, tmp_path / "m.onnx", images, opset=opset)
    assert [entry.version for entry in onnx.load(str(exported.path)).opset_import if not entry.domain] == [opset]
    session = ort.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    with torch.no_grad():
        np.testing.assert_allclose(session.run(None, {"image": images.numpy()})[0], model(images), atol=1e-5)


@pytest.mark.parametrize("opset", [0, 8, 99, True, "17"])
def test_an_operator_set_that_there_is_not_is_refused(tmp_path, opset) -> None:
    with pytest.raises(UsageError, match="opset is"):
        podar.export(ConvNet(32).eval(), tmp_path / "m.onnx", torch.randn(1, 3, 8, 8), opset=opset)
    assert not os.listdir(tmp_path)


def test_an_operator_that_a_set_does_not_have_is_refused(tmp_path) -> None:
    with pytest.raises(PodarError, match="opset 9"):
        podar.export(Shuffled().eval(), tmp_path / "m.onnx", torch.randn(1, 4, 6, 6), opset=9, dynamic_batch=False)
    assert not os.listdir(tmp_path)


class Shuffled(nn.Module):
    """grid_sample came with opset 16."""

    def forward(self, x: Tensor) -> Tensor:
        grid = torch.linspace(-0.5, 0.5, 5).repeat(1, 5, 1).unsqueeze(-1).repeat(1, 1, 1, 2)
        return nn.functional.grid_sample(x, grid, align_corners=False)


def test_a_model_is_in_eval_mode_after_each_way_of_writing(tmp_path) -> None:
    """The older exporter puts back the mode that it found on the whole, and batch norms with it."""
    from podar.formats.flat import flatten
    from podar.formats.registry import WritingOptions

    flat = flatten(ConvNet(32).eval(), torch.randn(2, 3, 8, 8))
    before = flat.run(flat.inputs)
    written = exporter.write_onnx(flat, tmp_path / "m.onnx", WritingOptions())[-1]()
    assert written.writer == "TorchScript"
    assert all(torch.equal(a, b) for a, b in zip(before, flat.run(flat.inputs)))
    (got,) = open_file(tmp_path / "m.onnx").run([t.numpy() for t in flat.inputs])
    torch.testing.assert_close(torch.from_numpy(got), before[0], rtol=1e-4, atol=1e-5)


def test_the_older_exporter_where_torch_export_cannot_follow(tmp_path) -> None:
    bright = torch.ones(1, 4)
    exported = podar.export(Branching(), tmp_path / "b.onnx", bright, check_inputs=bright, dynamic_batch=False)
    assert exported.writer == "TorchScript"
    assert not exported.dynamic_batch


def test_an_input_that_nothing_reads(tmp_path) -> None:
    class Deaf(nn.Module):
        def forward(self, x: Tensor, unused: Tensor) -> Tensor:
            return x * 2

    exported = podar.export(Deaf(), tmp_path / "d.onnx", (torch.ones(2, 3), torch.ones(2, 1)))
    assert exported.parity == 0


def test_a_batch_size_that_is_built_in(tmp_path) -> None:
    class Fixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 3, 4).sum(1)

    images = torch.randn(5, 12)
    exported = podar.export(Fixed(), tmp_path / "f.onnx", images[:2], check_inputs=images[:4])
    assert not exported.dynamic_batch
    assert exported.parity < 1e-5


def test_it_is_quiet(tmp_path, capfd) -> None:
    podar.export(nn.Linear(3, 2), tmp_path / "l.onnx", torch.ones(1, 3))
    assert capfd.readouterr() == ("", "")
