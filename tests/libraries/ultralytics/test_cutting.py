"""Pruned YOLOs compute what the zeroed dense ones do; both heads lose the same; the target is met."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from podar.errors import UsageError
from podar.libraries.ultralytics import fused_cost, open_model, prune
from podar.libraries.ultralytics.cutting import ONE_TO_ONE
from tests.graph.oracle import difference

SMALL = ["yolo26n.yaml", "yolo11n-cls.yaml"]
ALL = [
    *(f"yolo{g}{s}{t}.yaml" for g in ("26", "11") for s in "ns" for t in ("", "-seg", "-pose", "-obb", "-cls")),
    *("yolo26m.yaml", "yolo11m.yaml", "yolov8n.yaml", "yolov8s.yaml", "yolov8m.yaml", "yolov9t.yaml", "yolov10n.yaml"),
    *("yolo12n.yaml", "yolo12s.yaml"),
]


def without_features(outputs: Any) -> Any:
    if isinstance(outputs, dict):
        return {key: without_features(value) for key, value in outputs.items() if key != "feats"}
    if isinstance(outputs, (tuple, list)):
        return type(outputs)(without_features(value) for value in outputs)
    return outputs


def build(name: str) -> nn.Module:
    """A model that does not return its neck's features, which may change their width."""
    model = open_model(name, {}, False).make()
    model.register_forward_hook(lambda _, inputs, outputs: without_features(outputs))
    return model


def uneven_heads(model: nn.Module) -> list[str]:
    """Parameters of the one-to-one head whose shape is not that of their twin; none after `prune`."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    twins = {name: name.replace(ONE_TO_ONE, "") for name in shapes if ONE_TO_ONE in name}
    return [name for name, twin in twins.items() if twin in shapes and shapes[twin] != shapes[name]]


@pytest.mark.parametrize(
    "name", [*SMALL, *(pytest.param(name, marks=pytest.mark.slow) for name in ALL if name not in SMALL)]
)
@pytest.mark.parametrize("target", [0.7, 0.4])
def test_surgery_is_what_masking_is(name: str, target: float) -> None:
    worst, result = difference(
        lambda: build(name), torch.rand(1, 3, 128, 128), lambda model, x: prune(model, x, f"macs={target}")
    )
    assert worst < 1e-6
    assert abs(result.after.macs / result.before.macs - target) <= 0.03
    assert uneven_heads(result.model) == []


@pytest.mark.slow
@pytest.mark.parametrize("target", [0.7, 0.4])
def test_rtdetr_meets_its_target_and_runs(target: float) -> None:
    model = open_model("rtdetr-l.yaml", {}, False).make()
    picture = torch.rand(1, 3, 320, 320)
    with torch.no_grad():
        answer = model(picture)[0].shape  # 84 numbers a box, or 6, as the release of Ultralytics has it
    result = prune(model, torch.rand(1, 3, 320, 320), f"macs={target}")
    assert abs(result.after.macs / result.before.macs - target) <= 0.03
    with torch.no_grad():
        assert model(picture)[0].shape == answer


def test_one_that_has_predicted_can_be_pruned_and_fused() -> None:
    model = open_model("yolo26n.yaml", {}, False).make()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
    result = prune(model, x, "macs=0.6")
    fused = fused_cost(model, x)
    assert fused.params < result.after.params
    assert sum(p.numel() for p in model.parameters()) == result.after.params
    for name, module in model.named_modules():
        if hasattr(module, "forward_split"):  # what exports run
            assert 2 * module.c == module.cv1.conv.out_channels, name  # type: ignore[union-attr]


def test_whole_blocks_stay() -> None:
    with pytest.raises(UsageError, match="depth"):
        prune(nn.Sequential(), torch.zeros(1, 3, 64, 64), "macs=0.6", depth=True)
