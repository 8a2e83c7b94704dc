"""One table over all runtimes, with a reason where one cannot run the model."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import podar.graph.graph as graphs
from podar.errors import PodarError, UsageError
from podar.measuring import side_by_side
from podar.runtimes import register
from podar.runtimes.torch import open_, run_module
from tests.measuring.networks import write_mlp

pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

X = torch.ones(1, 64)


def test_every_runtime_that_reads_a_model_has_a_line(tmp_path) -> None:
    pytest.importorskip("openvino")
    path = write_mlp(tmp_path / "m.onnx", 64)
    lines = side_by_side([path, nn.Linear(64, 8)], X, seconds=0.05, memory=False)
    assert [(line.model, line.runtime) for line in lines] == [
        (str(path), "onnxruntime"),
        (str(path), "openvino"),
        ("Linear", "torch"),
    ]
    measured = [line.measured for line in lines]
    assert all(m is not None and m.latency_ms["p50"] > 0 for m in measured)
    assert len({len(m.turns_ms) for m in measured if m is not None}) == 1  # all of them in turn
    assert [m.latency_ms["runtime"].split()[0] for m in measured if m is not None] == [
        "onnxruntime",
        "openvino",
        "torch",
    ]


def test_only_the_runtimes_asked_for(tmp_path) -> None:
    path = write_mlp(tmp_path / "m.onnx", 64)
    (line,) = side_by_side([path], X, runtimes=["onnxruntime"], seconds=0.05, memory=False)
    assert line.runtime == "onnxruntime"
    with pytest.raises(UsageError, match="unknown runtime 'tvm'"):
        side_by_side([path], X, runtimes=["tvm"])
    with pytest.raises(UsageError, match="none of torch"):
        side_by_side([path], X, runtimes=["torch"])


def test_a_model_that_does_not_run_has_a_reason_beside_one_that_does(tmp_path) -> None:
    path = write_mlp(tmp_path / "m.onnx", 64)
    good, bad = side_by_side([path, nn.Linear(3, 3)], X, runtimes=["onnxruntime", "torch"], seconds=0.05, memory=False)
    assert good.measured is not None and good.reason is None
    assert bad.measured is None and "does not run" in str(bad.reason)
    with pytest.raises(PodarError, match="does not run"):
        side_by_side([nn.Linear(3, 3)], X)


def test_a_module_that_several_runtimes_run_is_traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A toy runtime runs modules beside torch; parameters and MACs of the module are counted for both at once."""
    register.runtime("toy", package="torch", suffixes=(".toy",), module=run_module)(open_)
    traced = []
    real = graphs.observe
    monkeypatch.setattr(graphs, "observe", lambda *given, **more: traced.append(given) or real(*given, **more))
    try:
        lines = side_by_side([nn.Linear(64, 8)], X, runtimes=["torch", "toy"], seconds=0.05, memory=False)
    finally:
        register.unregister("toy")
    assert [line.runtime for line in lines] == ["torch", "toy"] and len(traced) == 1
    assert [line.measured.macs for line in lines if line.measured] == [64 * 8] * 2
