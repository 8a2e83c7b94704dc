"""torchvision imports whatever its build, NMS keeps what it must, and nothing is declared twice."""

from __future__ import annotations

import importlib
import subprocess
import sys
import warnings

import pytest
import torch

from podar.model.torchvision_operators import import_torchvision, nms, roi_align


def test_it_imports_and_stays_imported() -> None:
    torchvision = import_torchvision()
    assert import_torchvision() is torchvision is sys.modules["torchvision"]


def test_timm_and_ultralytics_import_after_it_in_a_fresh_process() -> None:
    code = (
        "from podar.model.torchvision_operators import import_torchvision; import_torchvision();"
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


@pytest.mark.parametrize("aligned", [False, True])
@pytest.mark.parametrize("ratio", [2, 3, 0, -1])
def test_roi_align_and_its_gradient_against_torchvisions_own_python(ratio: int, aligned: bool) -> None:
    import_torchvision()
    theirs = importlib.import_module(
        "torchvision.ops.roi_align"
    )._roi_align.__wrapped__  # as it is before it is compiled
    maps = torch.randn(2, 5, 20, 30, dtype=torch.float64, requires_grad=True)
    corners = torch.rand(17, 2, 2, dtype=torch.float64) * torch.tensor([118.0, 78.0])
    boxes = torch.cat([torch.randint(0, 2, (17, 1)), corners.amin(1), corners.amax(1)], 1)
    wanted = theirs(maps, boxes, 0.25, 7, 5, ratio, aligned)
    got = import_torchvision().ops.roi_align(maps, boxes, (7, 5), 0.25, ratio, aligned)
    assert torch.allclose(got, wanted, rtol=0, atol=1e-12)
    back = torch.randn_like(got)
    assert torch.allclose(*(torch.autograd.grad(y, maps, back)[0] for y in (got, wanted)), rtol=0, atol=1e-12)


def test_points_outside_the_map_count_as_nothing_and_no_boxes_give_nothing() -> None:
    maps, outside = torch.ones(1, 1, 8, 8, requires_grad=True), torch.tensor([[0.0, 20, 20, 40, 40]])
    assert roi_align(maps, outside, 1.0, 2, 2, 2, False).eq(0).all()
    half = torch.tensor([[0.0, 0, 0, 12, 8]])
    assert roi_align(maps, half, 1.0, 1, 2, 4, False).flatten().tolist() == [1.0, 0.25]  # of 6.75 to 11.25 one
    nothing = import_torchvision().ops.roi_align(maps, outside[:0], 7, 1.0, 0)
    assert nothing.shape == (0, 1, 7, 7)
    nothing.sum().backward()
    assert maps.grad is not None and maps.grad.eq(0).all()


@pytest.mark.parametrize("name", ["ssdlite320_mobilenet_v3_large", "fasterrcnn_mobilenet_v3_large_320_fpn"])
def test_detectors_can_be_scripted(name: str) -> None:
    """With the operators that stand in, as with torchvision's own; the script gives what the model gives."""
    detection = import_torchvision().models.detection
    model = getattr(detection, name)(weights=None, weights_backbone=None).eval()
    images = [torch.rand(3, 128, 128)]
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # torch.jit.script is deprecated
        _, (found,) = torch.jit.script(model)(images)
        (expected,) = model(images)
    assert found.keys() == expected.keys() and torch.allclose(found["scores"], expected["scores"], atol=1e-5)


def test_operators_can_be_scripted() -> None:
    ops = import_torchvision().ops
    boxes, scores = torch.tensor([[0.0, 0, 2, 2], [0, 0, 2, 2], [4, 4, 6, 6]]), torch.tensor([0.5, 0.6, 0.1])
    maps = torch.rand(1, 2, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert torch.jit.script(ops.nms)(boxes, scores, 0.5).tolist() == [1, 2]
        pooled = torch.jit.script(ops.RoIAlign((2, 2), 1.0, 2))(maps, [boxes])
        torch.testing.assert_close(torch.jit.script(ops.box_iou)(boxes, boxes), ops.box_iou(boxes, boxes))
    torch.testing.assert_close(pooled, ops.RoIAlign((2, 2), 1.0, 2)(maps, [boxes]))
