"""Ultralytics models by name and from checkpoints; a checkpoint can run nothing."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from podar.errors import PodarError
from podar.libraries import find_library
from podar.libraries.ultralytics import architectures, open_model
from podar.libraries.ultralytics.checkpoint import read_checkpoint
from podar.model.inputs import call


@pytest.mark.parametrize(
    ("name", "params"),
    [("yolo26n.yaml", 2_572_280), ("yolo11n.yaml", 2_624_080), ("yolov8n.yaml", 3_157_200), ("yolo26n", 2_572_280)],
)
def test_architectures_have_their_published_size_and_run(name: str, params: int) -> None:
    source = open_model(name, {}, False)
    model = source.make()
    assert sum(p.numel() for p in model.parameters()) == params
    call(model, source.inputs())


@pytest.mark.parametrize("name", ["yolo26n-seg.yaml", "yolo26n-pose.yaml", "yolo26n-obb.yaml", "yolo26n-cls.yaml"])
def test_every_task_of_yolo26_runs(name: str) -> None:
    source = open_model(name, {}, False)
    model = source.make()
    call(model, source.inputs())


def test_arguments_reach_the_model() -> None:
    source = open_model("yolo26n.yaml", {"num_classes": 3, "ch": 1}, False)
    model = source.make()
    assert source.inputs().shape == (1, 1, 320, 320)
    assert model.model[-1].nc == 3  # type: ignore[index]


def test_the_list_holds_every_family_and_scale() -> None:
    names = architectures()
    assert {"yolo26n.yaml", "yolo26x-obb.yaml", "yolo11m.yaml", "yolov8s-seg.yaml", "yolov10n.yaml"} <= set(names)
    assert "yolov10nn.yaml" not in names
    assert all(find_library(name) is not None for name in names)


def test_an_unknown_architecture_names_the_nearest() -> None:
    with pytest.raises(PodarError, match=r"did you mean yolo26n-seg\.yaml\?"):
        open_model("yolo26n-segg.yaml", {}, False)


def test_a_missing_checkpoint_names_what_there_is(tmp_path: Path) -> None:
    (tmp_path / "best.pt").touch()
    with pytest.raises(PodarError, match=r"there is no file .*bets\.pt; did you mean .*best\.pt\?"):
        open_model(str(tmp_path / "bets.pt"), {}, False)
    with pytest.raises(PodarError, match=r"could not be downloaded; yolo26n\.yaml is its architecture"):
        open_model("yolo26n.pt", {}, False)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, nn.Module]:
    """A checkpoint as Ultralytics writes it: the pickled module, in half precision, with settings and paths."""
    from ultralytics.utils import IterableSimpleNamespace

    model = open_model("yolo26n.yaml", {}, False).make()
    path = tmp_path_factory.mktemp("checkpoint") / "best.pt"
    model.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5)  # type: ignore[assignment]
    model.criterion = model.init_criterion()  # type: ignore[operator]  # a model in training carries its loss
    extra = {"epoch": 3, "fitness": np.float64(0.5), "args": IterableSimpleNamespace(a=1), "save_dir": Path("runs")}
    torch.save({"model": None, "ema": model.half(), **extra}, path)
    return path, model.float()


def test_a_checkpoint_is_read_without_trust(checkpoint: tuple[Path, nn.Module]) -> None:
    path, saved = checkpoint
    source = open_model(str(path), {}, False)
    model = source.make()
    assert not model.training
    assert next(model.parameters()).dtype == torch.float32
    for name, tensor in saved.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    call(model, source.inputs())


@pytest.mark.parametrize(
    ("suffix", "task"), [("", "detect"), ("-seg", "segment"), ("-obb", "obb"), ("-cls", "classify")]
)
def test_a_checkpoint_knows_its_task(tmp_path: Path, suffix: str, task: str) -> None:
    """Models in Ultralytics' checkpoints carry no task: its loader guesses it from the head."""
    model = open_model(f"yolo26n{suffix}.yaml", {}, False).make()
    del model.task
    torch.save({"model": model}, tmp_path / "best.pt")
    assert read_checkpoint(tmp_path / "best.pt").task == task


class Bomb:
    """Runs a function of this test file when it is unpickled."""

    def __init__(self, function: object, *args: object) -> None:
        self.call = (function, args)

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


fired: list[str] = []


def fire(word: str) -> str:
    fired.append(word)
    return word


def test_a_foreign_function_needs_trust_and_does_not_run(tmp_path: Path) -> None:
    torch.save({"model": Bomb(fire, "foreign")}, tmp_path / "evil.pt")
    with pytest.raises(PodarError, match=r"fire, which is no part of .*run any program: add --trust"):
        read_checkpoint(tmp_path / "evil.pt")
    assert fired == []


def test_a_constructor_on_the_allow_list_does_not_run_either(tmp_path: Path) -> None:
    """A YOLO model's constructor evaluates the activation of its configuration as Python."""
    from ultralytics.nn.tasks import DetectionModel

    config = {"nc": 1, "backbone": [], "head": [], "activation": f"__import__({__name__!r}).fire('constructor')"}
    torch.save({"model": Bomb(DetectionModel, config)}, tmp_path / "evil.pt")
    with pytest.raises(PodarError, match="constructs a DetectionModel when it is loaded"):
        read_checkpoint(tmp_path / "evil.pt")
    assert fired == []


def test_getattr_reaches_no_functions(tmp_path: Path) -> None:
    torch.save({"model": Bomb(getattr, nn.Identity(), "register_forward_hook")}, tmp_path / "evil.pt")
    with pytest.raises(PodarError, match="reads the attribute 'register_forward_hook' of a Identity"):
        read_checkpoint(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no checkpoint"),
        (b"GIF89a, not a model", "is no checkpoint"),
        (pickle.dumps({"a": 1}), "is no checkpoint"),
    ],
)
def test_damaged_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(PodarError, match=message):
        read_checkpoint(tmp_path / "x.pt")


def test_a_truncated_checkpoint(tmp_path: Path, checkpoint: tuple[Path, nn.Module]) -> None:
    whole = checkpoint[0].read_bytes()
    (tmp_path / "x.pt").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(PodarError, match=r"x\.pt is damaged or was cut short: copy or download it again\.$"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_module_of_another_tool(tmp_path: Path) -> None:
    torch.save({"model": nn.Sequential(nn.Conv2d(3, 4, 3))}, tmp_path / "x.pt")
    with pytest.raises(PodarError, match=r"holds a Sequential, which is no model of Ultralytics: give the function"):
        read_checkpoint(tmp_path / "x.pt")


def test_a_class_that_ultralytics_no_longer_has(
    tmp_path: Path, checkpoint: tuple[Path, nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    from ultralytics.nn.modules import block

    monkeypatch.delattr(block, "C3k2")
    with pytest.raises(PodarError, match=r"needs ultralytics\.nn\.modules\.block\.C3k2, which Ultralytics .* not have"):
        read_checkpoint(checkpoint[0])


def test_a_plain_state_dict_is_no_model(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2).state_dict(), tmp_path / "x.pt")
    with pytest.raises(PodarError, match="give a state dict as --weights"):
        read_checkpoint(tmp_path / "x.pt")
