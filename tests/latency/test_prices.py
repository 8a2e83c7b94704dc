"""Latency as a target: foretold by layers, measured, met or refused; on a simulator whose times are arithmetic."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import podar
from podar.errors import PodarError, UsageError
from podar.latency import Found
from podar.latency.profiling import pack, profile
from podar.latency.table import Table, kept_table, read_table
from podar.pruning import Options
from tests.latency.simulator import NAME, simulator

pytest.importorskip("onnxruntime")
pytest.importorskip("onnx")
IMAGES = torch.zeros(1, 3, 16, 16)


class Net(nn.Module):
    """A stem, a residual block with a depthwise convolution in it, and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(64, 128, 1), nn.BatchNorm2d(128), nn.SiLU())
        self.deep = nn.Sequential(nn.Conv2d(128, 128, 3, padding=1, groups=128), nn.Hardswish())
        self.narrow = nn.Conv2d(128, 64, 1)
        self.last = nn.Sequential(nn.Conv2d(64, 96, 3, 2, 1), nn.ReLU6(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(96, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        return self.head(self.last(x + self.narrow(self.deep(self.wide(x)))))


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Tables are kept in a folder of the test's own."""
    monkeypatch.setenv("PODAR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def simulated() -> Iterator[None]:
    with simulator():
        yield


def net() -> Net:
    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize("target", ["latency=0.6", {"latency": 0.4}, "latency<=0.5"])
def test_a_share_of_latency_is_met_as_measured(target: Any) -> None:
    result = podar.prune(net(), IMAGES, target, runtime=NAME)
    found = result.latency
    assert isinstance(found, Found) and found.measured is not None
    share = found.measured / found.dense
    wanted = result.targets[0].value
    assert share <= wanted if result.targets[0].most else abs(share / wanted - 1) <= 0.03
    assert abs(found.predicted / found.measured - 1) < 0.03
    assert f"{found.measured:.3g} ms measured" in str(result) and "simulator" in str(result)


@pytest.mark.usefixtures("simulated")
def test_milliseconds_are_met_with_inputs_too() -> None:
    dense = podar.prune(net(), IMAGES, "latency=0.7", runtime=NAME).latency.dense
    result = podar.prune(net(), IMAGES, f"latency={0.5 * dense:.4f}ms", runtime=NAME, data=torch.randn(32, 3, 16, 16))
    assert abs(result.latency.measured / (0.5 * dense) - 1) <= 0.03
    assert result.compensation is not None


def test_a_sum_that_is_wrong_is_corrected_by_measuring() -> None:
    with simulator(slower=1.5):  # of whole models alone: whatever the table foretells is too little
        result = podar.prune(net(), IMAGES, "latency=0.5", runtime=NAME)
    assert abs(result.latency.measured / result.latency.dense / 0.5 - 1) <= 0.03


@pytest.mark.usefixtures("simulated")
@pytest.mark.parametrize(
    ("target", "holds"),
    [
        ("latency<=0.7, params<=0.5", lambda m, p, t: t <= 0.7 and p <= 0.5 + 1e-9),
        ("macs=0.6, latency<=0.65", lambda m, p, t: abs(m - 0.6) <= 0.03 and t <= 0.65),
    ],
)
def test_latency_stands_beside_other_targets(target: str, holds: Any) -> None:
    result = podar.prune(net(), IMAGES, target, runtime=NAME)
    before, after, found = result.before, result.after, result.latency
    assert holds(after.macs / before.macs, after.params / before.params, found.measured / found.dense)


@pytest.mark.usefixtures("simulated")
def test_less_than_the_frozen_part_takes_is_refused_with_what_it_takes() -> None:
    model = net()
    with pytest.raises(PodarError, match=r"what cannot be cut takes [0-9.e-]+ ms"):
        podar.prune(model, IMAGES, "latency=0.02", runtime=NAME, protect="stem*")
    assert model.stem[0].out_channels == 64
    with pytest.raises(UsageError, match="nothing to do"):
        podar.prune(model, IMAGES, "latency=999ms", runtime=NAME)


def test_runtimes_that_are_unknown_or_missing_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="did you mean onnxruntime"):
        podar.prune(net(), IMAGES, "latency=0.5", runtime="onnxruntim")
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(PodarError, match=r"pip install .*openvino"):
        podar.prune(net(), IMAGES, "latency=0.5", runtime="openvino")
    with pytest.raises(UsageError, match="threads"):
        Options(threads=0)


@pytest.mark.usefixtures("simulated")
def test_what_was_measured_is_kept_and_used_again(cache: Path) -> None:
    podar.prune(net(), IMAGES, "latency=0.6", runtime=NAME)
    (file,) = (cache / "latency").iterdir()
    table = read_table(file)
    known = kept_table(table.runtime, table.threads, table.processor)
    assert known.layers == table.layers and len(known.layers) > 20
    written = file.read_bytes()
    podar.prune(net(), IMAGES, "latency=0.6", runtime=NAME)
    assert file.read_bytes() == written
    assert kept_table("simulator 2.0", 1, table.processor).layers == {}


@pytest.mark.usefixtures("simulated")
def test_a_table_of_another_device_foretells_and_is_not_measured(tmp_path: Path) -> None:
    model, path = net(), tmp_path / "table.json"
    table = profile(model, IMAGES, podar.trace(model, IMAGES), NAME)
    table.processor = "Cortex-A76"
    table.save(path)
    result = podar.prune(model, IMAGES, "latency=0.6", table=path)
    found = result.latency
    assert found.measured is None and found.processor == "Cortex-A76" and "not measured here" in str(found)
    assert abs(found.predicted / found.dense / 0.6 - 1) <= 0.03
    other = net()
    wrong: tuple[tuple[dict[str, Any], str], ...] = (
        ({"threads": 2}, "1 thread, and 2 threads"), ({"runtime": "openvino"}, "simulator"),
    )  # fmt: skip
    for asked, said in wrong:
        with pytest.raises(UsageError, match=said):
            podar.prune(other, IMAGES, "latency=0.6", table=path, **asked)
    with pytest.raises(PodarError, match="lacks .* layers of this model"):
        podar.prune(other, torch.zeros(1, 3, 24, 24), "latency=0.6", table=path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "podar profile"),
        ("{", "cannot be read"),
        ("[]", "no table of layers"),
        ('{"podar_table": 1, "runtime": "x", "threads": 1, "processor": "p", "layers": {"a": -1}}', "no time"),
        ('{"podar_table": 1, "runtime": "x", "threads": 0, "processor": "p", "layers": {"a": 1}}', "threads"),
        ('{"podar_table": 1, "runtime": 3, "threads": 1, "processor": "p", "layers": {"a": 1}}', "runtime"),
    ],
)
def test_damaged_tables_are_refused(tmp_path: Path, text: str | None, said: str) -> None:
    path = tmp_path / "table.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(PodarError, match=said):
        podar.prune(net(), IMAGES, "latency=0.5", table=path)


def test_a_damaged_cache_is_measured_again(cache: Path) -> None:
    table = kept_table("onnxruntime 1", 1, "p")
    table.layers["a"] = 1.0
    table.keep()
    assert kept_table("onnxruntime 1", 1, "p").layers == {"a": 1.0}
    assert table.path is not None
    table.path.write_text("{")
    assert kept_table("onnxruntime 1", 1, "p") == Table("onnxruntime 1", 1, "p", {}, table.path)


def test_a_bundle_is_timed_by_its_script_with_the_runtime_alone(tmp_path: Path) -> None:
    import subprocess

    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    graph = podar.trace(model, IMAGES)
    script = pack(model, IMAGES, graph, tmp_path / "bundle", "onnxruntime")
    hidden = "import sys; sys.modules.update(dict.fromkeys(['torch', 'podar', 'onnx', 'scipy'])); "
    code = f"{hidden} sys.argv = ['profile.py', '--out', r'{tmp_path / 'table.json'}']; "
    code += f"import runpy; runpy.run_path(r'{script}', run_name='__main__')"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, cwd=tmp_path)
    table = read_table(tmp_path / "table.json")
    names = set(json.loads((script.parent / "layers.json").read_text())["layers"])
    assert set(table.layers) == names and any(name.startswith("model ") for name in names)
    assert table.runtime.startswith("onnxruntime ")
    with pytest.raises(PodarError, match="there already"):
        pack(model, IMAGES, graph, tmp_path / "bundle", "onnxruntime")
    with pytest.raises(UsageError, match="knows"):
        pack(model, IMAGES, graph, tmp_path / "other", "torch")
