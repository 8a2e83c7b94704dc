"""What people do with a pruned model of every source: train, copy, compile, export, save and load; nothing changes."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.model.inputs import call
from podar.model.tensors import named_tensors
from tests.graph.oracle import redraw
from tests.zoo.models import build

SAMPLE = [
    ("torchvision", "shufflenet_v2_x0_5"),
    ("timm", "test_vit"),
    ("ultralytics", "yolov8n"),
    ("transformers", "bert"),
]
pytestmark = pytest.mark.filterwarnings("ignore")  # what torch and the libraries warn of while they compile and export


def pruned(source: str, name: str, depth: bool = False) -> tuple[nn.Module, Any]:
    if importlib.util.find_spec(source) is None:
        pytest.skip(f"{source} is not installed")
    model, inputs = build(source, name)
    redraw(model)
    podar.prune(model, inputs, "channels=0.5", scope="local", depth=depth)
    return model.eval(), inputs


def outputs(model: Any, inputs: Any) -> list[Tensor]:
    with torch.no_grad():
        return [t for _, t in named_tensors(call(model, inputs))]


def same(a: list[Tensor], b: list[Tensor], within: float = 0.0) -> bool:
    return len(a) == len(b) and all(
        x.shape == y.shape and (x - y).abs().max() <= within * x.abs().max() for x, y in zip(a, b)
    )


@pytest.mark.parametrize("depth", [False, True])
@pytest.mark.parametrize(("source", "name"), SAMPLE)
def test_it_goes_on_as_any_model_does(source: str, name: str, depth: bool, tmp_path: Path) -> None:
    model, inputs = pruned(source, name, depth)
    wanted = outputs(model, inputs)
    assert same(wanted, outputs(copy.deepcopy(model), inputs))
    podar.save(model, tmp_path / "saved")
    assert same(wanted, outputs(podar.load(tmp_path / "saved", lambda: build(source, name)[0]), inputs))
    captured = torch.compile(copy.deepcopy(model), backend="eager")
    assert same(wanted, outputs(captured, inputs), within=1e-4)


@pytest.mark.parametrize(("source", "name"), SAMPLE)
def test_it_trains(source: str, name: str) -> None:
    model, inputs = pruned(source, name)
    batch = inputs.repeat(2, 1, 1, 1) if isinstance(inputs, Tensor) else inputs
    model.train()
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    loss = sum(t.float().square().mean() for _, t in named_tensors(call(model, batch)) if t.requires_grad)
    assert isinstance(loss, Tensor)
    loss.backward()
    optimizer.step()
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters()))


@pytest.mark.parametrize(("source", "name"), SAMPLE)
def test_it_is_exported(source: str, name: str) -> None:
    model, inputs = pruned(source, name)
    wanted = outputs(model, inputs)
    arguments, keywords = ((inputs,), {}) if isinstance(inputs, Tensor) else ((), inputs)
    program = torch.export.export(model, arguments, keywords)
    with torch.no_grad():
        got = [t for _, t in named_tensors(program.module()(*arguments, **keywords))]
    assert same(wanted, got, within=1e-4)


def test_onnx_agrees(tmp_path: Path) -> None:
    if importlib.util.find_spec("onnxruntime") is None:
        pytest.skip("onnxruntime is not installed")
    model, inputs = pruned("torchvision", "shufflenet_v2_x0_5", depth=True)
    exported = podar.export(model, tmp_path / "m.onnx", inputs)
    assert exported.path.stat().st_size > 0
