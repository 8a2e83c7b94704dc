"""pruned.pt in plain Ultralytics, in a process that cannot import podar: all of it works, but rebuilding is refused."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from podar.errors import PodarError
from podar.libraries.ultralytics import open_model, prune, save_pruned
from podar.libraries.ultralytics.sealing import is_sealed, seal, unsealed

PLAIN = """
import json, sys
from podar.model.torchvision_operators import import_torchvision  # nothing else of podar
import_torchvision()
for name in [n for n in sys.modules if n.partition(".")[0] == "podar"]:
    del sys.modules[name]
sys.modules["podar"] = None  # importing it fails from here on
from ultralytics import YOLO
path, data, image, folder = sys.argv[1:]
model = YOLO(path)
asked = {"imgsz": 64, "verbose": False, "project": folder, "exist_ok": True}
found = {"count": sum(p.numel() for p in model.model.parameters())}
BODY
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A pruned yolo26n for six classes, and how many parameters it has."""
    model = open_model("yolo26n.yaml", {"nc": 6}, False).make()
    prune(model, torch.zeros(1, 3, 64, 64), "macs=0.6")
    path = save_pruned(model, tmp_path_factory.mktemp("sealed") / "pruned.pt")
    return path, sum(p.numel() for p in model.parameters())


def plainly(body: str, pruned: tuple[Path, int], data: Path, folder: Path) -> dict[str, Any]:
    """What a script found that knows Ultralytics only; it works on a copy of the file."""
    path = folder / "pruned.pt"
    path.write_bytes(pruned[0].read_bytes())
    image = next(data.parent.rglob("images/val/*.png"))
    command = [sys.executable, "-c", PLAIN.replace("BODY", body), *map(str, (path, data, image, folder))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.strip().split("\n")[-1])
    assert found["count"] == pruned[1]
    assert path.read_bytes() == pruned[0].read_bytes()
    return found


def test_it_predicts_and_validates_and_refuses_to_train(
    tmp_path: Path, scenes: Callable[[str], Path], pruned: tuple[Path, int]
) -> None:
    body = """
found["answers"] = len(model.predict(image, **asked))
found["map"] = model.val(data=data, plots=False, workers=0, **asked).box.map
try:
    YOLO(path).train(data=data, epochs=1, batch=3, workers=0, plots=False, **asked)
    found["error"] = "none"
except Exception as error:
    found["error"] = str(error)
"""
    found = plainly(body, pruned, scenes("detect"), tmp_path)
    assert found["answers"] == 1
    assert found["map"] >= 0
    assert "pruned by podar" in found["error"]
    assert "trainer=podar.libraries.ultralytics.trainer()" in found["error"]


@pytest.mark.slow
def test_it_tracks(tmp_path: Path, scenes: Callable[[str], Path], pruned: tuple[Path, int]) -> None:
    pytest.importorskip("lap")
    body = 'found["frames"] = [len(model.track(image, persist=True, conf=1e-4, **asked)) for _ in range(3)]'
    assert plainly(body, pruned, scenes("detect"), tmp_path)["frames"] == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "needs"),
    [("onnx", "onnxruntime"), ("openvino", "openvino"), ("torchscript", "torch"), ("ncnn", "pnnx")],
)
def test_it_is_exported_and_measured(
    tmp_path: Path, scenes: Callable[[str], Path], pruned: tuple[Path, int], format: str, needs: str
) -> None:
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"{format} needs {needs}")
    body = f"""
file = model.export(format={format!r}, imgsz=64, verbose=False)
dense, here = YOLO(path).predict(image, conf=1e-5, **asked)[0], YOLO(file).predict(image, conf=1e-5, **asked)[0]
found["scores"] = [sorted(answer.boxes.conf.tolist())[-3:] for answer in (dense, here)]
table = YOLO(path).benchmark(data=data, imgsz=64, format={format!r})
found["table"] = [" ".join(map(str, row)) for row in table.rows()]
"""
    found = plainly(body, pruned, scenes("detect"), tmp_path)
    there, here = found["scores"]
    assert here == pytest.approx(there, rel=0.02, abs=1e-5)
    assert any("✅" in row for row in found["table"]), found["table"]


def test_sealing_is_undone_exactly() -> None:
    model = open_model("yolo26n.yaml", {}, False).make()
    before: Any = model.yaml
    assert seal(seal(model)) is model
    assert is_sealed(model.yaml)
    assert not is_sealed(before)
    assert unsealed(model.yaml) == before  # type: ignore[arg-type]
    assert unsealed(before) is before


def test_what_has_no_configuration_cannot_be_sealed() -> None:
    with pytest.raises(PodarError, match="Linear has no configuration of Ultralytics"):
        seal(torch.nn.Linear(2, 2))
