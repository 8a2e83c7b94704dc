"""The engine compares itself with ONNX Runtime, says who wins, and gives way."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.engine import accelerating
from podar.engine.onnx_rival import in_onnxruntime
from podar.errors import PodarError

pytest.importorskip("podar_native", reason="podar-native is not built here")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.usefixtures("cache")


class Small(nn.Module):
    """Some thousand weights, operators that the engine does not know between them, and an output of two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.act, self.second = nn.Conv2d(3, 8, 3), nn.PReLU(8), nn.Conv2d(8, 8, 3)
        self.boxes, self.scores = nn.Linear(128, 4), nn.Linear(128, 2)

    def forward(self, image: Tensor, scale: Tensor) -> dict[str, Tensor]:
        x = torch.tanh(self.second(self.act(self.first(image)))).permute(0, 3, 2, 1).flatten(1)
        return {"scores": self.scores(x).softmax(1), "boxes": self.boxes(x) * scale}


@pytest.fixture
def small() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    model = Small().eval()
    podar.sparsify(model, 0.8)
    return podar.bake(model), (torch.randn(1, 3, 8, 8), torch.rand(1, 1))


def judge(monkeypatch: pytest.MonkeyPatch, engine: float, onnxruntime: float) -> None:
    """Whole models take these times; regions take what they take."""
    real = accelerating.fastest_times

    def fastest(*runs, times: int) -> list[float]:
        return [engine, onnxruntime] if len(runs) == 2 else real(*runs, times=times)

    monkeypatch.setattr(accelerating, "fastest_times", fastest)


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.allclose(one[k], other[k], atol=1e-5) for k in one)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of torch's own tree specs when they are copied
@pytest.mark.parametrize("wins", [True, False])
def test_who_is_faster_runs_the_model_and_is_said(small, monkeypatch: pytest.MonkeyPatch, wins: bool) -> None:
    model, inputs = small
    judge(monkeypatch, engine=2.0, onnxruntime=1.0 if wins else 3.0)
    fast = podar.accelerate(model, inputs, tune=False)
    assert fast.report.in_onnxruntime is wins
    assert f"2.00 ms, ONNX Runtime {1 if wins else 3}.00 ms → {'ONNX Runtime' if wins else 'the plan below'}" in str(
        fast.report
    )
    runs: list[int] = []
    if fast._rival is not None:
        alone = fast._rival.__call__
        monkeypatch.setattr(fast, "_rival", lambda tensors: runs.append(1) or alone(tensors))
    with torch.no_grad():
        assert same(fast(*inputs), model(*inputs))
    assert bool(runs) is wins
    monkeypatch.undo()
    for again in (copy.deepcopy(fast), pickle.loads(pickle.dumps(fast))):
        assert same(again(*inputs), fast(*inputs))


def test_it_is_really_measured(small) -> None:
    model, inputs = small
    report = podar.accelerate(model, inputs, tune=False).report
    assert report.engine_ms > 0 and report.onnxruntime_ms > 0
    assert report.in_onnxruntime is (report.onnxruntime_ms < report.engine_ms)


def test_without_measuring_nothing_is_compared(small) -> None:
    model, inputs = small
    report = podar.accelerate(model, inputs, measure=False, tune=False).report
    assert not report.in_onnxruntime and not report.not_compared and report.onnxruntime_ms != report.onnxruntime_ms


def test_what_cannot_be_compared_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    x = torch.randn(1, 3, 8, 8)
    program = torch.export.export(model, (x,), strict=False)
    with pytest.raises(PodarError, match="does not compute what the model computes"):
        in_onnxruntime(program, [x], model(x) + 1)

    def refused(*_: object, **__: object) -> None:
        raise PodarError("the model cannot be exported: no reason.")

    monkeypatch.setattr(accelerating, "in_onnxruntime", refused)
    fast = podar.accelerate(model, x, tune=False)
    assert "not compared with ONNX Runtime: the model cannot be exported" in str(fast.report)
    assert torch.allclose(fast(x), model(x), atol=1e-5)


def test_another_batch_and_the_program_file_are_the_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).eval()
    podar.sparsify(model, 0.9)
    podar.bake(model)
    x, more = torch.randn(1, 3, 16, 16), torch.randn(4, 3, 16, 16)
    judge(monkeypatch, engine=2.0, onnxruntime=1.0)
    fast = podar.accelerate(model, x, tune=False)
    assert fast.report.in_onnxruntime
    if fast.report.regions[0].kept:
        assert torch.allclose(fast(more), model(more), atol=1e-5)
        fast.save(tmp_path / "m.podar")
    assert torch.allclose(fast(x), model(x), atol=1e-5)
