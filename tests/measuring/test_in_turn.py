"""Figures are sane and complete, errors name what clashed, and the model is left as it was."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import podar
from podar.errors import PodarError, UsageError
from podar.measuring import compare, latency_ratio
from tests.measuring.networks import Pair, write_mlp

pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

X = torch.ones(1, 64)
QUICK = {"seconds": 0.05, "memory": False}


@pytest.fixture(scope="module")
def mlp(tmp_path_factory) -> Path:
    return write_mlp(tmp_path_factory.mktemp("mlp") / "mlp.onnx", 64)


def test_a_file(mlp: Path) -> None:
    found = podar.measure(mlp, X, seconds=0.05)
    assert set(found.latency_ms) == {"p50", "p95", "runtime", "threads"}
    assert 0 < found.latency_ms["p50"] <= found.latency_ms["p95"]
    assert found.latency_ms["runtime"] == f"onnxruntime {ort.__version__}"
    assert found.latency_ms["threads"] == 1
    assert found.params == 2 * 64 * 64
    assert found.bytes == mlp.stat().st_size
    assert found.memory_baseline_bytes is not None and found.memory_bytes is not None
    assert 10 * 2**20 < found.memory_baseline_bytes < found.memory_bytes
    assert found.macs is None and "macs" in found.missing
    assert (found.energy_joules is None) == ("energy_joules" in found.missing)


def test_a_torch_model_keeps_its_modes_and_its_caches_can_still_train() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.cache: torch.Tensor | None = None

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            if self.cache is None:
                self.cache = torch.arange(4.0)
            return self.linear(x) * self.cache

    model = nn.Sequential(Cached(), nn.BatchNorm1d(4), nn.Dropout())
    model[1].eval()
    statistics = model[1].running_mean.clone()  # type: ignore[union-attr, operator]
    threads = torch.get_num_threads()
    found = podar.measure(model, torch.ones(2, 4), **QUICK)
    assert found.latency_ms["runtime"] == f"torch {torch.__version__}"
    assert [m.training for m in model] == [True, False, True]
    assert torch.equal(model[1].running_mean, statistics)  # type: ignore[arg-type]
    assert torch.get_num_threads() == threads
    model(torch.ones(2, 4)).sum().backward()
    assert found.bytes == sum(t.numel() * t.element_size() for t in model.state_dict().values())


def test_models_are_measured_in_turn_and_divided_turn_by_turn(mlp: Path, tmp_path) -> None:
    both = compare({"before": write_mlp(tmp_path / "wide.onnx", 256), "after": mlp}, X, **QUICK)
    assert list(both) == ["before", "after"]
    assert both["before"].params == 64 * 256 + 256 * 256
    assert len(both["before"].turns_ms) == len(both["after"].turns_ms) >= 3
    # The second pair of turns fell into a slow second of the machine: the ratio does not notice.
    before = dataclasses.replace(both["before"], turns_ms=(2.0, 20.0, 2.0))
    after = dataclasses.replace(both["after"], turns_ms=(1.0, 10.0, 1.1))
    assert latency_ratio(before, after) == 0.5
    with pytest.raises(PodarError, match="not measured in turn"):
        latency_ratio(before, dataclasses.replace(after, turns_ms=(1.0,)))


def test_the_json_is_plain(mlp: Path) -> None:
    found = podar.measure(mlp, X, **QUICK)
    again = json.loads(json.dumps(found.to_json()))
    assert again["latency_ms"] == found.latency_ms
    assert {"params", "macs", "bytes", "memory_bytes", "latency_ms"} <= set(again)
    assert again["processor"]["cores"] >= 1


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        (torch.ones(1, 65), r"its input x is any×64 float32, the one given is 1×65 float32"),
        (torch.ones(64), r"any×64 float32, the one given is 64 float32"),
        (torch.ones(1, 64, dtype=torch.float64), r"any×64 float32, the one given is 1×64 float64"),
        ((X, X), r"takes 1 input \(x\), but 2 were given"),
        (torch.ones(1, 64, dtype=torch.bfloat16), "cannot be given to a runtime"),
        (lambda model: model(X), "instead of a callable"),
    ],
)
def test_inputs_that_do_not_fit_a_file(mlp: Path, inputs, message: str) -> None:
    with pytest.raises(PodarError, match=message):
        podar.measure(mlp, inputs, **QUICK)


@pytest.mark.parametrize("inputs", [X, (X,), {"x": X}, {"any name": X}, np.ones((1, 64), np.float32)])
def test_every_form_of_inputs_for_a_file(mlp: Path, inputs) -> None:
    assert podar.measure(mlp, inputs, **QUICK).latency_ms["p50"] > 0


def test_inputs_that_do_not_fit_a_torch_model() -> None:
    with pytest.raises(PodarError, match=r"torch model \(Linear\) does not run on the example inputs \(1×5 float32\)"):
        podar.measure(nn.Linear(4, 4), torch.ones(1, 5), **QUICK)


def test_files_that_are_no_models(tmp_path) -> None:
    with pytest.raises(PodarError, match=r"none\.onnx: there is no such file"):
        podar.measure(tmp_path / "none.onnx", X)
    with pytest.raises(PodarError, match="it is a folder"):
        podar.measure(tmp_path, X)
    (tmp_path / "broken.onnx").write_bytes(b"\x08\x0cgarbage")
    with pytest.raises(PodarError, match=r"broken\.onnx is not a model that ONNX Runtime can open"):
        podar.measure(tmp_path / "broken.onnx", X)
    (tmp_path / "broken.pt2").write_bytes(b"garbage")
    with pytest.raises(PodarError, match=r"broken\.pt2 was not written by this podar.*--trust"):
        podar.measure(tmp_path / "broken.pt2", X)
    with pytest.raises(PodarError, match=r"broken\.pt2 is not an exported program"):
        podar.measure(tmp_path / "broken.pt2", X, trust=True)
    (tmp_path / "notes.txt").write_text("no model")
    with pytest.raises(UsageError, match=r"\.txt is none of \.onnx, \.podar, \.pt2, \.xml"):
        podar.measure(tmp_path / "notes.txt", X)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"threads": 0}, "threads is 0"),
        ({"threads": 1.5}, "threads is 1.5"),
        ({"seconds": -1}, "seconds is -1"),
        ({"runtime": "onnxruntme"}, "did you mean onnxruntime"),
        ({"runtime": "torch"}, "torch does not run .*mlp.onnx; onnxruntime"),
    ],
)
def test_wrong_usage(mlp: Path, wrong, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        podar.measure(mlp, X, **{**QUICK, **wrong})


def test_an_exported_program(tmp_path) -> None:
    model, inputs = Pair(), {"a": torch.ones(1, 4), "b": torch.ones(1, 4)}
    torch.export.save(torch.export.export(model, (), inputs), tmp_path / "named.pt2")
    torch.export.save(torch.export.export(model, tuple(inputs.values())), tmp_path / "flat.pt2")
    for name in ("named.pt2", "flat.pt2"):
        found = podar.measure(tmp_path / name, inputs, seconds=0.05, trust=True)
        assert found.params == 4 * 8 + 8 + 8 * 4 + 4
        assert found.memory_bytes is not None, found.missing


def test_a_dict_with_tensors_by_name_reaches_a_torch_model() -> None:
    found = podar.measure(Pair(), {"b": torch.ones(1, 4), "a": torch.ones(1, 4)}, **QUICK)
    assert found.params == 4 * 8 + 8 + 8 * 4 + 4
