"""A few models of every source of the zoo; `make test-zoo` runs them all."""

from __future__ import annotations

import importlib.util

import pytest

from tests.zoo.run import one, passed

SAMPLE = [
    ("torchvision", "resnet18"),
    ("torchvision", "mobilenet_v3_small"),
    ("torchvision", "shufflenet_v2_x0_5"),
    ("torchvision", "densenet121"),
    ("timm", "deit_tiny_patch16_224"),
    ("timm", "test_vit_relpos"),
    ("timm", "mobilevit_xxs"),
    ("timm", "test_convnext"),
    ("ultralytics", "yolo26n"),
    ("ultralytics", "yolo11n"),
    ("ultralytics", "yolov8n"),
    ("transformers", "bert"),
    ("transformers", "llama"),
]


@pytest.mark.parametrize(("source", "name"), SAMPLE)
def test_a_model_of_the_zoo(source: str, name: str) -> None:
    if importlib.util.find_spec(source) is None:
        pytest.skip(f"{source} is not installed")
    row = one(source, name, "channels=0.5", "local", True)
    assert passed(row), row
