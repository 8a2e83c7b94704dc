"""A pruned shape survives training, resuming, two processes and files; plain Ultralytics refuses to rebuild it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from podar.data.scenes import KEYPOINTS
from podar.libraries.ultralytics import fused_cost, make_ready, open_model, prune, save_pruned, trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # Ultralytics' and its libraries' own

DENSE = ("", "-seg", "-pose", "-obb", "-cls")
TASK = dict(zip(DENSE, ("detect", "segment", "pose", "obb", "classify")))
MATRIX = [
    *((f"yolo{g}{s}{t}.yaml", TASK[t]) for g in ("26", "11") for s in "nsm" for t in DENSE),
    *((f"yolo{g}{s}.yaml", "detect") for g in ("v8", "12") for s in "nsm"),
    ("rtdetr-l.yaml", "detect"),
]


def pruned_file(folder: Path, name: str, task: str, target: float, classes: int) -> tuple[Path, int]:
    args: dict[str, Any] = {"nc": classes} | ({"data_kpt_shape": (len(KEYPOINTS), 3)} if task == "pose" else {})
    model = open_model(name, args, False).make()
    prune(model, torch.zeros(1, 3, 64, 64), f"macs={target}")
    path = save_pruned(model, folder / "pruned.pt")
    return path, sum(p.numel() for p in model.parameters())


def settings(data: Path, folder: Path) -> dict[str, Any]:
    own = {"data": str(data), "project": str(folder), "name": "run", "exist_ok": True}
    return {**own, "imgsz": 64, "batch": 3, "workers": 0, "plots": False, "verbose": False}


def count(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    ("name", "task", "target"),
    [
        ("yolo26n.yaml", "detect", 0.6),
        *(pytest.param(n, t, target, marks=pytest.mark.slow) for target in (0.4, 0.7) for n, t in MATRIX),
    ],
)
def test_training_keeps_the_shape(
    tmp_path: Path, scenes: Callable[[str], Path], name: str, task: str, target: float
) -> None:
    make_ready()
    from ultralytics import RTDETR, YOLO

    data = scenes(task)
    path, before = pruned_file(tmp_path, name, task, target, 6)
    model = (RTDETR if name.startswith("rtdetr") else YOLO)(str(path))
    model.train(trainer=trainer(), epochs=2, **settings(data, tmp_path))
    assert count(model.model) == before
    best = tmp_path / "run" / "weights" / "best.pt"
    again = type(model)(str(best))
    assert count(again.model) == before
    image = next((data.parent if data.suffix else data).rglob("val/**/*.png"))
    assert len(list(again.predict(str(image), imgsz=64, verbose=False))) == 1
    assert Path(again.export(format="onnx", imgsz=64, verbose=False)).stat().st_size > 0


@pytest.mark.slow
def test_a_broken_off_training_goes_on_in_the_same_shape(tmp_path: Path, scenes: Callable[[str], Path]) -> None:
    make_ready()
    from ultralytics import YOLO

    path, before = pruned_file(tmp_path, "yolo26n.yaml", "detect", 0.6, 6)
    model = YOLO(str(path))

    def stop(trainer: Any) -> None:
        if trainer.epoch == 1:
            raise KeyboardInterrupt

    model.add_callback("on_train_epoch_start", stop)
    with pytest.raises(KeyboardInterrupt):
        model.train(trainer=trainer(), epochs=3, **settings(scenes("detect"), tmp_path))
    last = tmp_path / "run" / "weights" / "last.pt"
    again = YOLO(str(last))
    again.train(trainer=trainer(), resume=True)
    assert count(again.model) == before
    assert len((tmp_path / "run" / "results.csv").read_text().strip().split("\n")) == 4


@pytest.mark.slow
def test_mixed_precision_keeps_the_shape(tmp_path: Path, scenes: Callable[[str], Path]) -> None:
    """AMP, which Ultralytics turns on for graphics cards only: bf16 here, chosen by hand or by what is fastest."""
    make_ready()
    from ultralytics import YOLO

    from podar.libraries.ultralytics import fastest_on_cpu

    path, before = pruned_file(tmp_path, "yolo26n.yaml", "detect", 0.6, 6)
    model, used = YOLO(str(path)), []
    model.add_callback("on_train_start", fastest_on_cpu)
    model.add_callback("on_train_start", lambda trainer: setattr(trainer, "amp", True))
    model.add_callback("on_train_batch_end", lambda trainer: used.append(trainer.amp))
    model.train(trainer=trainer(), epochs=1, **settings(scenes("detect"), tmp_path))
    assert used and all(used)
    for name in ("best.pt", "last.pt"):
        again: Any = YOLO(str(tmp_path / "run" / "weights" / name)).model
        assert count(again) == before
        assert {parameter.dtype for parameter in again.parameters()} == {torch.float32}


def test_fusing_a_pruned_file_drops_a_head_and_the_norms(tmp_path: Path) -> None:
    make_ready()
    from ultralytics import YOLO

    path, before = pruned_file(tmp_path, "yolo26n.yaml", "detect", 0.6, 6)
    model = YOLO(str(path))
    x = torch.zeros(1, 3, 64, 64)
    network: Any = model.model
    expected = fused_cost(network, x).params
    network.fuse()
    assert count(network) == expected < before
    assert count(YOLO(str(path)).model) == before
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


@pytest.mark.slow
def test_a_search_for_hyperparameters_keeps_the_shape(tmp_path: Path, scenes: Callable[[str], Path]) -> None:
    make_ready()
    from ultralytics import YOLO

    from podar.libraries.ultralytics import tune

    path, before = pruned_file(tmp_path, "yolo26n.yaml", "detect", 0.6, 6)
    asked = settings(scenes("detect"), tmp_path)
    tune(YOLO(str(path)), iterations=2, epochs=1, **{k: v for k, v in asked.items() if k != "verbose"})
    found = sorted(tmp_path.rglob("best.pt"))
    assert found
    assert {count(YOLO(str(file)).model) for file in found} == {before}


@pytest.mark.slow
def test_two_gloo_ranks_keep_the_shape(tmp_path: Path, scenes: Callable[[str], Path]) -> None:
    path, before = pruned_file(tmp_path, "yolo26n.yaml", "detect", 0.6, 6)
    script = tmp_path / "train.py"
    asked = {**settings(scenes("detect"), tmp_path), "batch": 4, "device": "cpu", "epochs": 1}
    script.write_text(
        "from podar.libraries.ultralytics import make_ready, trainer\nmake_ready()\nfrom ultralytics import YOLO\n"
        f"YOLO({str(path)!r}).train(trainer=trainer(), **{asked!r})\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--master_port=29533", str(script)]
    done = subprocess.run(command, env=os.environ, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    make_ready()
    from ultralytics import YOLO

    assert count(YOLO(str(tmp_path / "run" / "weights" / "best.pt")).model) == before
