"""What is asked of a sweep: each point once, with a folder of its own; what makes no sense is refused in a sentence."""

from __future__ import annotations

import pytest

from podar.errors import UsageError
from podar.sweeps.points import Point, pareto_points, parse, parse_sizes


def points(*targets: str, **more: object) -> list[Point]:
    own = {"prune": {}, "finetune": {"epochs": 2}, "format": "onnx", **more}
    return pareto_points({"model": "demo", "data": "digits", "weights": None}, targets, **own)  # pyright: ignore[reportArgumentType]


def test_targets_in_full() -> None:
    assert parse(["macs=0.8, 0.6"]) == ["macs=0.8", "macs=0.6"]
    assert parse(["macs<=0.8,params=2M,1M", "bytes=0.5"]) == ["macs<=0.8", "params=2M", "params=1M", "bytes=0.5"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "names no target"),
        (",", "names no target"),
        ("macs=", "names no target"),
        ("macs=0.5,", "names no target"),
        ("0.5", "names no target"),
        ("macs=0.5,0.50", "--targets names macs=0.50 twice"),
        ("macs=half", "is not a number"),
        ("maks=0.5", "did you mean 'macs'"),
        ("macs=1.5", "must be between 0 and 1"),
    ],
)
def test_targets_that_make_no_sense(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse([text])


@pytest.mark.parametrize("text", ["0", "-3", "a", "24,", "1.5", "99999"])
def test_sizes_that_make_no_sense(text: str) -> None:
    with pytest.raises(UsageError, match="no side in pixels"):
        parse_sizes([text])


def test_points_that_take_no_training_come_first() -> None:
    found = points("macs=0.5", "macs<=0.25", family=["yolo26n.pt", "runs/a/yolo26n.pt"], sizes=[16])
    assert [p.kind for p in found] == ["dense", "family", "family", "size", "target", "target"]
    assert len({p.folder for p in found}) == 6
    assert all("/" not in p.folder and not p.folder.startswith(".") for p in found)
    assert found[3].recipe["image_size"] == 16
    assert [next(iter(stage)) for stage in found[4].recipe["stages"]] == ["prune", "finetune", "export"]
    assert [next(iter(stage)) for stage in points("macs=0.5", finetune=None)[1].recipe["stages"]] == ["prune", "export"]


def test_a_member_of_the_family_has_its_own_weights() -> None:
    base = {"model": "timm:resnet18", "model_args": {"num_classes": 10}, "weights": "resnet18.safetensors"}
    found = pareto_points(
        base, ["macs=0.5"], prune={}, finetune=None, format="onnx", family=["timm:resnet10t=ten.pt", "demo"]
    )
    member, other = found[1].recipe, found[2].recipe
    assert (member["model"], member["weights"], member["model_args"]) == (
        "timm:resnet10t",
        "ten.pt",
        {"num_classes": 10},
    )
    assert (other["model"], other["weights"], other["model_args"]) == ("demo", None, {})


@pytest.mark.parametrize(
    ("more", "said"),
    [({"family": ["a.pt", "a.pt"]}, "--family names a.pt twice"), ({"sizes": [8, 8]}, "--imgsz names 8 px twice")],
)
def test_once_is_enough(more: dict[str, object], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        points("macs=0.5", **more)
