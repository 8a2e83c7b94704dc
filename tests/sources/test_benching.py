"""`podar bench` on files, sparse models and the engine's own files, at the shapes asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import podar
from podar.cli import console
from podar.errors import UsageError
from podar.sources.benching import bench_models

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("cache")


def test_dense_runtimes_and_the_engine_side_by_side_on_files(tmp_path: Path, sparse: nn.Module) -> None:
    pytest.importorskip("podar_native", reason="podar-native is not built here")
    pytest.importorskip("openvino")
    files = [str(tmp_path / name) for name in ("m.onnx", "m.podar")]
    for file in files:
        podar.export(sparse, file, torch.randn(1, 3, 12, 12))
    lines = bench_models(files, seconds=0.05)
    assert [(line["model"], line["runtime"]) for line in lines] == [
        (files[0], "onnxruntime"), (files[0], "openvino"), (files[0], "podar"), (files[1], "podar")
    ]  # fmt: skip
    assert all(line["latency_ms"]["p50"] > 0 and line["memory_bytes"] for line in lines)
    assert lines[3]["memory_bytes"] < lines[2]["memory_bytes"]  # a program file needs neither torch nor onnx
    (table,) = console.bench_table(lines)
    assert table.row_count == 4


def test_a_row_that_is_empty_has_its_reason_below(tmp_path: Path, sparse: nn.Module) -> None:
    table, reason = console.bench_table([{"model": "m.onnx", "runtime": "podar", "reason": "it is not installed."}])
    assert table.row_count == 1 and str(reason) == "m.onnx in podar: it is not installed."


class Named(nn.Module):
    """Two inputs, of which one is whole numbers: tokens of a vocabulary of five."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.body = nn.Embedding(5, 4), nn.Conv2d(3, 4, 3)

    def forward(self, image: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        return self.body(image).mean((2, 3)) + self.embedding(tokens).mean(1)


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("two.py").write_text(
        "import torch\nfrom tests.sources.test_benching import Named\n"
        "def make(): return Named()\n"
        "def example_inputs(): return torch.zeros(1, 3, 9, 9), torch.tensor([[4, 1]])\n"
    )
    return "two.py:make"


def test_the_shape_is_asked_for_and_printed(tmp_path: Path) -> None:
    from onnx import helper, numpy_helper, save

    side, info = ["n", 3, "height", "width"], helper.make_tensor_value_info
    weights = [numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w"),
               numpy_helper.from_array(np.ones(4, np.float32), "b")]  # fmt: skip
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["y"])], "g", [info("image", 1, side)],
        [info("y", 1, ["n", 4, "h", "w2"])], weights,
    )  # fmt: skip
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), tmp_path / "open.onnx")
    for shapes in ({"image": (1, 3, 32, 32)}, {"": (1, 3, 32, 32)}):
        (line,) = bench_models([str(tmp_path / "open.onnx")], shapes=shapes, runtimes=["onnxruntime"], seconds=0.05)
        assert line["inputs"] == {"image": [1, 3, 32, 32]} and line["latency_ms"]["p50"] > 0
        assert line["macs"] is None and line["params"] == 3 * 4 * 9 + 4
    (table,) = console.bench_table([line])
    assert "image 1×3×32×32" in next(iter(table.columns[1].cells))


@pytest.mark.parametrize(
    ("shapes", "words"),
    [
        ({"imag": (1, 3, 8, 8)}, "there is no input 'imag'; did you mean image"),
        ({"image": (1, 3, 8)}, r"has 4 axes \(1×3×12×12\)"),
        ({"": (1, 3)}, r"has 4 axes \(1×3×12×12\)"),
        ({"image": (1, 4, 12, 12)}, "1×4×12×12"),
    ],
)
def test_shapes_that_no_input_has(tmp_path: Path, shapes: dict[str, tuple[int, ...]], words: str) -> None:
    class Image(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return self.body(image)

    podar.export(Image(), tmp_path / "m.onnx", torch.randn(1, 3, 12, 12))
    with pytest.raises(UsageError, match=words):
        bench_models([str(tmp_path / "m.onnx")], shapes=shapes, seconds=0.05)


def test_own_models_take_shapes_too(two: str) -> None:
    shapes = {"image": (2, 3, 17, 17), "tokens": (2, 6)}
    (line,) = bench_models([two], shapes=shapes, runtimes=["torch"], seconds=0.05)
    assert line["inputs"] == {"image": [2, 3, 17, 17], "tokens": [2, 6]}
    with pytest.raises(UsageError, match="name the one that is meant"):
        bench_models([two], shapes={"": (1, 3, 9, 9)}, runtimes=["torch"], seconds=0.05)
