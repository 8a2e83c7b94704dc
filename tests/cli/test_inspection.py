"""`podar bench` and `podar export` on sparse models and on the engine's own files."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import podar
from podar.cli import console
from podar.cli.inspection import bench_models, file_inputs
from podar.errors import PodarError

pytest.importorskip("onnxruntime")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PODAR_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def sparse() -> nn.Module:
    model = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    podar.sparsify(model.eval(), 0.8)
    return podar.bake(model)


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
    (table,) = console.measured(lines)
    assert table.row_count == 4


def test_a_row_that_is_empty_has_its_reason_below(tmp_path: Path, sparse: nn.Module) -> None:
    table, reason = console.measured([{"model": "m.onnx", "runtime": "podar", "reason": "it is not installed."}])
    assert table.row_count == 1 and str(reason) == "m.onnx in podar: it is not installed."


def test_inputs_of_the_shapes_and_types_that_a_file_takes(tmp_path: Path, sparse: nn.Module) -> None:
    podar.export(sparse.half(), tmp_path / "half.onnx", torch.randn(1, 3, 12, 12).half())
    (x,) = file_inputs(tmp_path / "half.onnx")
    assert x.shape == (1, 3, 12, 12) and x.dtype == torch.float16
    (tmp_path / "broken.podar").write_bytes(b"broken")
    with pytest.raises(PodarError, match=r"broken\.podar"):
        file_inputs(tmp_path / "broken.podar")
