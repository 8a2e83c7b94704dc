"""An exported file computes what the model computes, and otherwise is not there."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

import podar
from podar.errors import PodarError, UsageError
from podar.formats import Exported
from tests.formats.networks import Block, Branching, ConvNet, Detector

ort = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def run(path: Path, *tensors: Tensor) -> list[np.ndarray]:
    """The file's outputs in a session of the test's own."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [entry.name for entry in session.get_inputs()]
    assert len(names) == len(tensors)
    return session.run(None, {name: t.numpy() for name, t in zip(names, tensors)})


@pytest.fixture(scope="module")
def conv_net(tmp_path_factory) -> tuple[nn.Module, Exported]:
    torch.manual_seed(0)
    model = ConvNet()
    exported = podar.export(model, tmp_path_factory.mktemp("onnx") / "net.onnx", torch.randn(1, 3, 12, 12))
    return model.eval(), exported


def test_a_convolutional_network_in_any_batch_size(conv_net) -> None:
    model, exported = conv_net
    assert exported.dynamic_batch
    assert exported.input_names == ("image",)
    assert exported.parity < 1e-5
    for batch in (1, 2, 7):
        images = torch.randn(batch, 3, 12, 12)
        with torch.no_grad():
            expected = model(images).numpy()
        np.testing.assert_allclose(run(exported.path, images)[0], expected, atol=1e-5)


def test_the_record_tells_the_truth(conv_net) -> None:
    _, exported = conv_net
    assert exported.bytes == exported.path.stat().st_size
    assert exported.runtime == f"onnxruntime {ort.__version__}"
    assert (exported.format, exported.writer, exported.files) == ("onnx", "torch.export", (exported.path,))


def test_batch_norm_is_folded_and_nothing_of_this_machine_is_in_the_file(conv_net) -> None:
    onnx = pytest.importorskip("onnx")
    _, exported = conv_net
    kinds = [node.op_type for node in onnx.load(str(exported.path)).graph.node]
    assert kinds.count("Conv") == 2
    assert "BatchNormalization" not in kinds
    content = exported.path.read_bytes()
    assert str(Path(__file__).parent.parent.parent).encode() not in content
    assert b"stack_trace" not in content


def test_a_transformer_block_where_every_size_is_fixed(tmp_path) -> None:
    model, tokens = Block().eval(), torch.randn(2, 5, 16)
    exported = podar.export(model, tmp_path / "block.onnx", tokens, dynamic_batch=False)
    assert not exported.dynamic_batch
    with torch.no_grad():
        np.testing.assert_allclose(run(exported.path, tokens)[0], model(tokens).numpy(), atol=1e-5)


def test_nested_keyword_inputs_and_nested_outputs(tmp_path) -> None:
    model = Detector()
    a, b, scale = torch.randn(2, 3, 6, 6), torch.randn(2, 3, 6, 6), torch.rand(2)
    inputs = {"images": (a, b), "scale": scale, "double": True}
    exported = podar.export(model, tmp_path / "d.onnx", inputs)
    assert exported.input_names == ("images_0", "images_1", "scale")
    assert exported.output_names == ("found_scores", "found_boxes_0", "found_boxes_1", "class")
    with torch.no_grad():
        expected = model(**inputs)
    found = expected["found"]
    for got, want in zip(run(exported.path, a, b, scale), (found.scores, *found.boxes, expected["class"])):
        np.testing.assert_allclose(got, want.numpy(), atol=1e-5)


class TestTheModelStaysAsItIs:
    def test_mode_weights_hooks_and_random_state(self, tmp_path) -> None:
        model = ConvNet().train()
        model.norm1.eval()  # frozen by the user: a mode of its own
        handle = model.register_forward_hook(lambda *_: None)
        before = copy.deepcopy(model.state_dict())
        modes = [m.training for m in model.modules()]
        state = torch.random.get_rng_state()
        podar.export(model, tmp_path / "m.onnx", torch.randn(1, 3, 8, 8, generator=torch.Generator()))
        assert [m.training for m in model.modules()] == modes
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(p.requires_grad for p in model.parameters())
        assert list(model._forward_hooks) == [handle.id]
        assert torch.equal(torch.random.get_rng_state(), state)

    def test_masks_and_parametrizations_are_carried_out_in_the_file_only(self, tmp_path) -> None:
        model = ConvNet()
        prune.l1_unstructured(model.conv2, "weight", amount=0.8)
        parametrizations.weight_norm(model.head)
        images = torch.randn(2, 3, 8, 8)
        exported = podar.export(model, tmp_path / "m.onnx", images)
        assert {"weight_orig", "bias"} & {name for name, _ in model.conv2.named_parameters()} == {"weight_orig"}
        assert hasattr(model.head, "parametrizations")
        with torch.no_grad():
            np.testing.assert_allclose(run(exported.path, images)[0], model.eval()(images).numpy(), atol=1e-5)


class TestRefused:
    def test_a_file_that_disagrees_leaves_nothing_and_keeps_the_old_file(self, tmp_path) -> None:
        target = tmp_path / "out" / "b.onnx"
        target.parent.mkdir()
        target.write_bytes(b"the old file")
        bright, dark = torch.ones(1, 4), -torch.ones(1, 4)
        with pytest.raises(PodarError, match=r"b\.onnx was not written.*output\[0, \d\] is .* instead of") as caught:
            podar.export(Branching(), target, bright, check_inputs=[bright, dark], dynamic_batch=False)
        assert "tolerance" in str(caught.value)
        assert target.read_bytes() == b"the old file"
        assert os.listdir(target.parent) == ["b.onnx"]

    def test_a_model_that_rolls_dice(self, tmp_path) -> None:
        class Dice(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                return x + torch.rand_like(x)

        with pytest.raises(PodarError, match="another output each time"):
            podar.export(Dice(), tmp_path / "d.onnx", torch.ones(1, 4), dynamic_batch=False)
        assert os.listdir(tmp_path) == []

    @pytest.mark.parametrize(
        ("name", "format", "message"),
        [
            ("m.onx", None, r"cannot tell the format of .*m\.onx"),
            ("m.onnx", "onxn", "did you mean onnx"),
            ("m.onnx", "coffee", "known: onnx"),
        ],
    )
    def test_unknown_formats(self, tmp_path, name: str, format: str | None, message: str) -> None:
        with pytest.raises(UsageError, match=message):
            podar.export(ConvNet(), tmp_path / name, torch.ones(1, 3, 8, 8), format=format)

    @pytest.mark.parametrize("tolerance", [-1.0, float("nan")])
    def test_a_tolerance_that_is_none(self, tmp_path, tolerance: float) -> None:
        with pytest.raises(UsageError, match="tolerance"):
            podar.export(ConvNet(), tmp_path / "m.onnx", torch.ones(1, 3, 8, 8), tolerance=tolerance)

    def test_a_folder_in_the_way(self, tmp_path) -> None:
        (tmp_path / "m.onnx").mkdir()
        with pytest.raises(PodarError, match="it is a folder"):
            podar.export(ConvNet(), tmp_path / "m.onnx", torch.ones(1, 3, 8, 8))
