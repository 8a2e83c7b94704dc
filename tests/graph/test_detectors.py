"""Every detector of torchvision is cut, whatever its weights find in the picture, and still detects and trains."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.model.torchvision_operators import import_torchvision
from tests.graph.oracle import redraw, refill

FEW = {"box_detections_per_img": 5, "rpn_post_nms_top_n_test": 20, "rpn_post_nms_top_n_train": 20}
"""As many boxes as the test has patience for."""

DETECTORS: dict[str, dict[str, Any]] = {
    "fasterrcnn_mobilenet_v3_large_320_fpn": FEW,
    "fasterrcnn_mobilenet_v3_large_fpn": FEW,
    "fasterrcnn_resnet50_fpn": FEW,
    "fasterrcnn_resnet50_fpn_v2": FEW,
    "maskrcnn_resnet50_fpn": FEW,
    "maskrcnn_resnet50_fpn_v2": FEW,
    "keypointrcnn_resnet50_fpn": FEW,
    "retinanet_resnet50_fpn": {"detections_per_img": 5},
    "retinanet_resnet50_fpn_v2": {"detections_per_img": 5},
    "fcos_resnet50_fpn": {"detections_per_img": 5},
    "ssd300_vgg16": {"detections_per_img": 5},
    "ssdlite320_mobilenet_v3_large": {"detections_per_img": 5},
}


def detector(name: str, seed: int) -> tuple[nn.Module, tuple[list[Tensor]]]:
    """As torchvision initialises it where the seed is even; else scales, shifts and statistics of its own."""
    torch.manual_seed(seed)
    sizes = {} if name.startswith("ssd") else {"min_size": 64, "max_size": 96}
    build = getattr(import_torchvision().models.detection, name)
    model = build(weights=None, weights_backbone=None, **DETECTORS[name], **sizes).eval()
    pictures = ([torch.rand(3, 64, 96)],)
    if seed % 2:
        redraw(model, seed)
        refill(model, pictures)
    return model, pictures


def sizes_of(model: nn.Module) -> dict[str, int]:
    """Parameters of the backbone, its pyramid, and each head."""
    parts = {n: p for n, p in model.named_children() if any(True for _ in p.parameters())}
    if hasattr(model.backbone, "body"):
        backbone: Any = parts.pop("backbone")
        parts |= {"body": backbone.body, "pyramid": backbone.fpn}
    return {n: sum(p.numel() for p in part.parameters()) for n, part in parts.items()}


def targets(pictures: list[Tensor]) -> list[dict[str, Tensor]]:
    height, width = pictures[0].shape[-2:]
    mask = torch.zeros(1, height, width, dtype=torch.uint8)
    mask[:, 8:40, 8:48] = 1
    points = torch.rand(1, 17, 3) * 30 + 10
    points[..., 2] = 1
    one = {"boxes": torch.tensor([[8.0, 8, 48, 40]]), "labels": torch.tensor([1]), "masks": mask, "keypoints": points}
    return [one for _ in pictures]


def cut_and_use(name: str, seed: int) -> None:
    """Prune, detect, and train one step."""
    model, (pictures,) = detector(name, seed)
    before = sizes_of(model)
    podar.prune(model, (pictures,), "channels=0.5", scope="local")
    after = sizes_of(model)
    assert all(after[part] <= 0.7 * before[part] for part in before), {p: after[p] / before[p] for p in before}
    with torch.no_grad():
        (found,) = model(pictures)
    assert found["boxes"].shape == (len(found["scores"]), 4)
    if seed % 2:
        redraw(model, seed)  # values that neither vanish nor explode, so that losses are numbers
    model.train()
    twice = pictures * 2  # batch norms want more than one value
    losses = model(twice, targets(twice))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3)
    torch.stack(list(losses.values())).sum().backward()
    optimizer.step()
    missing = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert not missing


@pytest.mark.parametrize(
    "name", ["fasterrcnn_mobilenet_v3_large_fpn", "keypointrcnn_resnet50_fpn", "retinanet_resnet50_fpn"]
)
def test_a_detector_is_cut_detects_and_trains(name: str) -> None:
    cut_and_use(name, 1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("name", DETECTORS)
def test_every_detector_whatever_its_weights_find(name: str, seed: int) -> None:
    cut_and_use(name, seed)
