"""Peak memory is that of a fresh process: it grows with the model, and nothing of this process is in it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from podar.errors import PodarError
from podar.measuring.memory import peak_memory, resident_peak
from tests.measuring.networks import Pair, write_mlp

MB = 2**20


class TestFiles:
    @pytest.fixture(autouse=True)
    def runtime(self) -> None:
        pytest.importorskip("onnxruntime")
        pytest.importorskip("onnx")

    def test_it_grows_with_the_model_by_its_weights(self, tmp_path) -> None:
        x = np.ones((1, 64), np.float32)
        small = peak_memory("onnxruntime", write_mlp(tmp_path / "small.onnx", 64), x)
        large = peak_memory("onnxruntime", write_mlp(tmp_path / "large.onnx", 2048, layers=5), x)  # 64 MB of weights
        assert large.peak - small.peak > 60 * MB
        assert large.baseline == pytest.approx(small.baseline, rel=0.1)
        assert 0 < small.baseline < small.peak

    def test_nothing_of_this_process_counts(self, tmp_path) -> None:
        path, x = write_mlp(tmp_path / "m.onnx", 64), np.ones((1, 64), np.float32)
        ballast = np.ones(300 * MB, np.uint8)
        assert resident_peak() > 300 * MB
        assert peak_memory("onnxruntime", path, x).peak < 250 * MB
        assert ballast[-1] == 1

    def test_a_file_that_breaks_in_the_child(self, tmp_path) -> None:
        (tmp_path / "m.onnx").write_bytes(b"garbage")
        with pytest.raises(PodarError, match=r"m\.onnx is not a model"):
            peak_memory("onnxruntime", tmp_path / "m.onnx", np.ones((1, 64), np.float32))


def test_a_torch_model_whose_class_no_other_process_can_import() -> None:
    class Local(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            self.pair = Pair()
            self.large = nn.Parameter(torch.ones(width, 2**18))  # a row is 1 MB

        def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
            return self.pair(a, b + self.large.sum())

    inputs = {"a": torch.ones(1, 4), "b": torch.ones(1, 4)}
    small, large = (peak_memory("torch", Local(width), inputs).peak for width in (1, 200))
    assert large - small > 190 * MB


def test_a_model_that_cannot_travel() -> None:
    model = Pair()
    model.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(PodarError, match="cannot be copied to a child process: .*lock"):
        peak_memory("torch", model, (torch.ones(1, 4), torch.ones(1, 4)))
