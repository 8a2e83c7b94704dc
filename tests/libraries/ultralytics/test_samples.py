"""Batches and losses for importance criteria: every task's loss has gradients, and labels are cut with their images."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from podar.criteria import score
from podar.errors import UsageError
from podar.libraries.ultralytics import open_model, prune
from podar.libraries.ultralytics.samples import BatchLabels, Samples, task_loss
from podar.sources.opening import open_source

pytestmark = pytest.mark.filterwarnings("ignore")  # Ultralytics' and its libraries' own

TASKS = ("detect", "segment", "pose", "obb", "classify")
SUFFIX: dict[str, str] = dict(zip(TASKS, ("", "-seg", "-pose", "-obb", "-cls")))


@pytest.mark.parametrize("task", ["detect", *(pytest.param(t, marks=pytest.mark.slow) for t in TASKS[1:])])
@pytest.mark.parametrize("importance", ["taylor", pytest.param("fisher", marks=pytest.mark.slow), "wanda"])
def test_criteria_that_need_data_get_them(scenes: Callable[[str], Path], task: str, importance: str) -> None:
    source = open_source(f"yolo26n{SUFFIX[task]}.yaml", str(scenes(task)), image_size=64)
    model = source.build()
    data, loss = source.workshop.samples(model, seed=0)
    before = {name: value for name, value in model.__dict__.items() if name in ("args", "criterion", "training")}
    found = score(importance, model, data, loss)
    assert {n: v for n, v in model.__dict__.items() if n in before} == before
    assert sum(bool(values.any()) for values in found.values()) > len(found) / 2
    result = prune(model, source.inputs(), "macs=0.6", importance=importance, data=data, loss=loss)
    assert abs(result.after.macs / result.before.macs - 0.6) <= 0.03


def test_a_data_yaml_is_data_and_taylor_judges_by_it(scenes: Callable[[str], Path]) -> None:
    data, x = scenes("detect"), torch.zeros(1, 3, 64, 64)
    torch.manual_seed(0)
    model = open_model("yolo26n.yaml", {"nc": 6}, False).make()
    same, others = copy.deepcopy(model), copy.deepcopy(model)
    samples, loss = Samples(same, str(data), 64), task_loss(same)
    asked = prune(same, x, "macs=0.6", importance="taylor", data=samples, loss=loss)
    assert prune(model, x, "macs=0.6", data=data).plan.cuts == asked.plan.cuts
    assert prune(others, x, "macs=0.6").plan.cuts != asked.plan.cuts


def test_a_data_yaml_needs_a_size(scenes: Callable[[str], Path]) -> None:
    model = open_model("yolo26n.yaml", {}, False).make()
    with pytest.raises(UsageError, match="at the size of example_inputs: give them as one tensor"):
        prune(model, (torch.zeros(1, 3, 64, 64),), "macs=0.6", data=str(scenes("detect")))


@pytest.mark.slow
def test_rtdetr_has_a_loss_too(scenes: Callable[[str], Path]) -> None:
    source = open_source("rtdetr-l.yaml", str(scenes("detect")), image_size=64)
    model = source.build()
    found = score("taylor", model, *source.workshop.samples(model, seed=0))
    assert sum(bool(values.any()) for values in found.values()) > len(found) / 2


def test_labels_are_cut_with_their_images() -> None:
    owner = torch.tensor([0.0, 0, 1, 2, 2, 2])
    whole = BatchLabels(
        {"img": torch.arange(3).view(3, 1, 1, 1), "batch_idx": owner, "bboxes": torch.arange(24).view(6, 4),
         "masks": torch.arange(3).view(3, 1, 1), "im_file": ["a", "b", "c"]}
    )  # fmt: skip
    one = whole[2:3]
    assert len(one) == 1
    assert one.batch["img"].item() == one.batch["masks"].item() == 2
    assert one.batch["batch_idx"].tolist() == [0, 0, 0]
    assert one.batch["bboxes"][:, 0].tolist() == [12, 16, 20]
    assert one.batch["im_file"] == ["c"]
