"""The one command for detectors: what its folder holds, what it refuses, and that it goes on where it broke off."""

from __future__ import annotations

import io
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from podar.cli import console
from podar.errors import PodarError, UsageError
from podar.libraries.ultralytics import make_ready
from podar.libraries.ultralytics.ready import said
from podar.libraries.ultralytics.training import check_settings
from podar.reports.anatomy import anatomy
from podar.runs import recipe as recipes
from podar.runs import running, steps
from podar.sources.opening import open_source

pytestmark = pytest.mark.filterwarnings("ignore")  # Ultralytics' and its libraries' own

FEW = {"batch": 3, "plots": False, "workers": 0}


def recipe(data: Path, *, epochs: int = 1, formats: tuple[str, ...] = (), **settings: Any) -> recipes.Recipe:
    stages: list[dict[str, Any]] = [
        {"prune": {"target": "macs=0.6"}},
        {"finetune": {"epochs": epochs, "settings": {**FEW, **settings}}},
    ]
    if formats:
        stages.append({"export": {"formats": formats}})
    stages.append({"measure": {"seconds": 0.05}})
    return recipes.make({"model": "yolo26n.yaml", "data": str(data), "image_size": 64, "stages": stages})


def count(path: Path) -> int:
    from podar.libraries.ultralytics.checkpoint import read_checkpoint

    return sum(p.numel() for p in read_checkpoint(path).parameters())


def test_one_command_leaves_what_both_kinds_of_users_look_for(tmp_path: Path, scenes: Callable[[str], Path]) -> None:
    out = tmp_path / "y"
    summary = running.start(recipe(scenes("detect"), formats=("onnx",)), out, command="podar prune")
    assert json.loads((out / "summary.json").read_text()) == summary
    for half in ("before", "after"):
        assert {"map50", "map50_95", "params", "macs", "fused_params", "fused_macs", "bytes"} <= set(summary[half])
    assert abs(summary["after"]["macs"] / summary["before"]["macs"] - 0.6) <= 0.03
    assert summary["importance"] == "taylor"
    assert [point["stage"] for point in summary["points"]] == ["dense", "cut", "final"]
    names = "pruned.pt weights/best.pt weights/last.pt results.csv args.yaml model.onnx dense.onnx report.html"
    for name in names.split():
        assert (out / name).stat().st_size > 0, name
    assert count(out / "pruned.pt") == count(out / "weights" / "best.pt") == summary["after"]["params"]
    assert summary["exports"]["onnx"]["parity"] < 1e-3
    assert ".work" not in (out / "args.yaml").read_text()
    assert "data:image/png" in (out / "report.html").read_text()

    again = open_source(str(out)).build()  # podar's own files tell the same model
    assert sum(p.numel() for p in again.parameters()) == summary["after"]["params"]
    with torch.no_grad():
        again(torch.rand(1, 3, 64, 64))


def test_blocks_are_ultralytics_layers() -> None:
    source = open_source("yolo26n.yaml")
    model: Any = source.build()
    graph, numbered = source.workshop.trace(model, source.inputs()), source.workshop.blocks(model)
    found = anatomy(graph, model="yolo26n.yaml", inputs=source.inputs(), numbered=numbered)
    assert len(found["blocks"]) == len(model.model)
    for number, (block, layer) in enumerate(zip(found["blocks"], model.model)):
        assert (block["name"], block["module"]) == (f"{number} {type(layer).__name__}", f"model.{number}")
        assert block["params"] == sum(p.numel() for p in layer.parameters())
    assert sum(block["macs"] for block in found["blocks"]) == found["cost"]["macs"]
    for group in found["groups"]:
        assert group["name"].startswith(f"model.{group['block'].split()[0]}.")
    screen = Console(file=io.StringIO(), width=100)
    screen.print(*console.anatomy_table(found))
    lines = [line.split() for line in screen.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    at = lines.index("2 C3k2 model.2 6.64 k 41.0 M".split())
    assert lines[at + 3] == "m.0.cv1.conv channels 8 2.32 k 14.7 M".split()
    assert "11 Upsample model.11 0 0".split() in lines


@pytest.mark.slow
def test_an_interrupted_training_is_kept_and_goes_on(
    tmp_path: Path, scenes: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "y"

    def stop(stage: str, done: int, total: int, info: dict[str, float]) -> None:
        if stage == "fine-tune" and info.get("epoch") == 2:
            raise KeyboardInterrupt

    asked = recipe(scenes("detect"), epochs=3)
    with pytest.raises(PodarError, match="podar resume"):
        running.start(asked, out, command="podar prune", progress=stop)
    assert (out / ".work" / "files" / "weights" / "best.pt").is_file()
    summary = running.resume(out)
    assert [epoch["epoch"] for epoch in summary["history"]] == [1, 2, 3]
    assert count(out / "pruned.pt") == summary["after"]["params"]


def knows(argument: str) -> bool:
    """Whether the installed release has it; the oldest ones lack some."""
    make_ready()
    from ultralytics.utils import DEFAULT_CFG_DICT

    return argument in DEFAULT_CFG_DICT


def test_unknown_arguments_name_the_nearest_and_ours_name_the_option() -> None:
    check_settings({"batch": 8, "lr0": 0.005})
    with pytest.raises(UsageError, match="did you mean batch=4"):
        check_settings({"bathc": 4})
    with pytest.raises(UsageError, match="'batch=many' is of invalid type str"):
        check_settings({"batch": "many"})
    with pytest.raises(UsageError, match="--imgsz"):
        check_settings({"imgsz": 64})


def test_an_unknown_optimizer_is_refused_before_anything_is_cut() -> None:
    for known in ("auto", "adamw", "SGD", "MuSGD", "RMSProp"):
        check_settings({"optimizer": known})
    with pytest.raises(UsageError, match="no optimizer 'Adamm'; did you mean optimizer=Adam"):
        check_settings({"optimizer": "Adamm"})
    with pytest.raises(UsageError, match="no optimizer 'xyz'; known: Adam, AdamW, .*SGD"):
        check_settings({"optimizer": "xyz"})


def test_what_ultralytics_says_becomes_one_line() -> None:
    text = "\x1b[31mInvalid CUDA 'device=7'.\x1b[0m Use 'device=cpu'.\n\ntorch.cuda.is_available(): False\n"
    assert said(ValueError(text)) == "Invalid CUDA 'device=7'. Use 'device=cpu'."


@pytest.mark.skipif("not knows('quantize')", reason="this Ultralytics trains nothing quantized")
def test_what_quantized_training_needs_is_said_before_anything_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "modelopt", None)
    with pytest.raises(PodarError, match="quantize=8 .*: pip install nvidia-modelopt"):
        check_settings({"quantize": "8"})


needs_teachers = pytest.mark.skipif("not knows('distill_model')", reason="this Ultralytics knows no distill_model")


@needs_teachers
def test_a_teacher_is_a_file_or_can_be_downloaded() -> None:
    check_settings({"distill_model": "yolo26s.pt"})
    with pytest.raises(PodarError, match=r"there is no file yolo26ss\.pt; did you mean yolo26s\.pt\?"):
        check_settings({"distill_model": "yolo26ss.pt"})


@pytest.mark.parametrize(("model", "task"), [("yolo26n.yaml", "detect"), ("yolo26n-cls.yaml", "classify")])
@pytest.mark.parametrize("settings", [{}, {"distill_model": "a.pt"}])
def test_no_distill_is_refused_where_nothing_distils(
    scenes: Callable[[str], Path], model: str, task: str, settings: dict[str, Any]
) -> None:
    stages = [{"prune": {"target": "macs=0.6"}}, {"finetune": {"distill": False, "settings": settings}}]
    asked = recipes.make({"model": model, "data": str(scenes(task)), "stages": stages})
    with pytest.raises(UsageError, match=r"--no-distill: nothing distils a YOLO unless distill_model=FILE"):
        steps.check_options(asked)
    steps.check_options(
        recipes.make({"model": model, "data": "fashion-mnist", "stages": [stages[0], {"finetune": {"distill": False}}]})
    )


@needs_teachers
@pytest.mark.slow
def test_a_teacher_is_taken_by_its_file(tmp_path: Path, scenes: Callable[[str], Path]) -> None:
    from podar.libraries.ultralytics.files import write_checkpoint

    teacher = write_checkpoint(open_source("yolo26n.yaml", str(scenes("detect"))).build(), tmp_path / "teacher.pt")
    summary = running.start(recipe(scenes("detect"), distill_model=str(teacher)), tmp_path / "y", command="podar prune")
    assert count(tmp_path / "y" / "pruned.pt") == summary["after"]["params"]
    assert "dis_loss" in (tmp_path / "y" / "results.csv").read_text().split("\n")[0]


@pytest.mark.slow
def test_quantization_aware_training_reaches_every_file(tmp_path: Path, scenes: Callable[[str], Path]) -> None:
    pytest.importorskip("modelopt")
    import onnx

    summary = running.start(
        recipe(scenes("detect"), formats=("onnx",), quantize=8), tmp_path / "y", command="podar prune"
    )
    kinds = {node.op_type for node in onnx.load(tmp_path / "y" / "model.onnx").graph.node}
    assert {"QuantizeLinear", "DequantizeLinear"} <= kinds
    assert torch.load(tmp_path / "y" / "pruned.pt", weights_only=False)["modelopt"]["ranges"]
    assert count(tmp_path / "y" / "pruned.pt") == summary["after"]["params"]


@pytest.mark.slow
def test_a_training_that_fails_keeps_its_weights(
    tmp_path: Path, scenes: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(stage: str, done: int, total: int, info: dict[str, float]) -> None:
        if stage == "fine-tune" and info.get("epoch") == 2:
            raise RuntimeError("the disk is full")

    with pytest.raises(PodarError, match=r"the disk is full; what was trained is kept: podar resume"):
        running.start(recipe(scenes("detect"), epochs=3), tmp_path / "y", command="podar prune", progress=fail)
    assert (tmp_path / "y" / ".work" / "files" / "weights" / "best.pt").is_file()


def test_a_side_that_is_no_multiple_of_the_stride(scenes: Callable[[str], Path]) -> None:
    with pytest.raises(UsageError, match=r"no multiple of the model's stride 32: give 96"):
        open_source("yolo26n.yaml", str(scenes("detect")), image_size=100)


def copied(data: Path, to: Path) -> Path:
    shutil.copytree(data.parent, to)
    for cache in to.rglob("*.cache"):
        cache.unlink()
    path = to / "data.yaml"
    path.write_text(path.read_text().replace(str(data.parent), str(to)))
    return path


def spoil_class(root: Path) -> None:
    label = root / "labels" / "train" / "00001.txt"
    label.write_text("9" + label.read_text()[1:])


def spoil_word(root: Path) -> None:
    (root / "labels" / "train" / "00001.txt").write_text("shirt 0.5 0.5 0.1 0.1\n")


def spoil_image(root: Path) -> None:
    image = root / "images" / "train" / "00002.png"
    image.write_bytes(image.read_bytes()[:200])


def empty(root: Path) -> None:
    shutil.rmtree(root / "images" / "val")
    (root / "images" / "val").mkdir()


def remove(root: Path) -> None:
    shutil.rmtree(root / "images" / "val")


def remove_training(root: Path) -> None:
    shutil.rmtree(root / "images" / "train")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (spoil_class, "labels/train/00001.txt line 1 is of the class 9, and names: has 6"),
        (spoil_word, "train has 1 damaged images or labels, first the label of .*00001.png: .*'shirt'"),
        (spoil_image, "00002.png"),
        (empty, "holds no images"),
        (remove, "missing path|images not found"),
        (remove_training, "train: there is no .*images/train"),
    ],
)
def test_bad_data_is_said_in_one_sentence(
    tmp_path: Path, scenes: Callable[[str], Path], spoil: Callable[[Path], None], message: str
) -> None:
    data = copied(scenes("detect"), tmp_path / "data")
    spoil(tmp_path / "data")
    with pytest.raises(PodarError, match=message) as raised:
        open_source("yolo26n.yaml", str(data), image_size=64)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("yolo26n-seg.yaml", "line 1 is a box, so of another task: segment needs polygons"),
        ("yolo26n-obb.yaml", "line 1 is a box, so of another task: obb needs rotated rectangles"),
        ("yolo26n-pose.yaml", "of another task than pose"),
    ],
)
def test_labels_of_another_task(scenes: Callable[[str], Path], model: str, message: str) -> None:
    with pytest.raises(PodarError, match=message):
        open_source(model, str(scenes("detect")), image_size=64)


def test_key_points_are_no_boxes(scenes: Callable[[str], Path]) -> None:
    with pytest.raises(PodarError, match="has a kpt_shape:, so its labels are of another task than detect"):
        open_source("yolo26n.yaml", str(scenes("pose")), image_size=64)


@pytest.mark.skipif("torch.cuda.is_available()", reason="an engine can be built here")
def test_what_cannot_be_exported_here_is_said_before_training(scenes: Callable[[str], Path]) -> None:
    stages = [{"prune": {"target": "macs=0.6"}}, {"export": {"formats": ["engine"]}}]
    asked = recipes.make({"model": "yolo26n.yaml", "data": str(scenes("detect")), "stages": stages})
    with pytest.raises(UsageError, match="engine cannot be written here: TensorRT"):
        steps.check_options(asked)


def test_a_missing_file_names_the_nearest(scenes: Callable[[str], Path]) -> None:
    with pytest.raises(PodarError, match=r"did you mean .*data\.yaml\?"):
        open_source("yolo26n.yaml", str(scenes("detect").with_name("dta.yaml")), image_size=64)
