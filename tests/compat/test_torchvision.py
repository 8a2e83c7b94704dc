"""torchvision imports whatever its build, NMS keeps what it must, and nothing is declared twice."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from podar.compat.torchvision import import_torchvision, nms


def test_it_imports_and_stays_imported() -> None:
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision is sys.modules["torchvision"]


def test_timm_and_ultralytics_import_after_it_in_a_fresh_process() -> None:
    code = (
        "from podar.compat.torchvision import import_torchvision; import_torchvision();"
        "import timm, ultralytics, torchvision, torch;"
        "print(torchvision.ops.nms(torch.tensor([[0., 0, 2, 2], [0, 0, 2, 2]]), torch.tensor([.5, .6]), .5).tolist())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split()[-1:] == ["[1]"], done.stderr  # on a new machine Ultralytics talks of its settings first


def greedy_by_hand(boxes: list[list[float]], scores: list[float], threshold: float) -> list[int]:
    """The definition, box by box, in plain Python."""

    def iou(a: list[float], b: list[float]) -> float:
        width = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
        height = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
        union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - width * height
        return width * height / union if union else 0.0

    kept: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(iou(boxes[i], boxes[j]) <= threshold for j in kept):
            kept.append(i)
    return kept


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("count", [0, 1, 60])
def test_nms_against_the_definition(count: int, threshold: float) -> None:
    corner = torch.rand(count, 2, dtype=torch.float64) * 20
    boxes = torch.cat([corner, corner + torch.rand(count, 2, dtype=torch.float64) * 15], dim=1)
    scores = torch.rand(count)
    expected = greedy_by_hand(boxes.tolist(), scores.tolist(), threshold)
    assert nms(boxes, scores, threshold).tolist() == expected
    assert import_torchvision().ops.nms(boxes, scores.double(), threshold).tolist() == expected


def test_empty_boxes_are_kept_and_ties_keep_their_order() -> None:
    points = torch.zeros(3, 4)
    assert nms(points, torch.ones(3), 0.5).tolist() == [0, 1, 2]


def test_nms_refuses_shapes_that_clash() -> None:
    with pytest.raises(ValueError, match=r"not \(2, 5\) and \(2,\)"):
        nms(torch.zeros(2, 5), torch.zeros(2), 0.5)


def test_batched_nms_keeps_classes_apart() -> None:
    boxes = torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 9], [0, 0, 9, 9]])
    kept = import_torchvision().ops.batched_nms(boxes, torch.tensor([0.9, 0.8, 0.7]), torch.tensor([0, 1, 0]), 0.5)
    assert kept.tolist() == [0, 1]
