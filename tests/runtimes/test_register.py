"""A runtime and a format of one's own, declared here and nowhere else, serve everything that podar's own do."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import podar
import podar.formats
from podar import cli
from podar.cli import options
from podar.errors import PodarError, UsageError
from podar.formats import FORMATS, file_format, liked_widths
from podar.formats import registry as format_registry
from podar.formats.flat import Flat
from podar.formats.registry import Attempt, Written
from podar.measuring import side_by_side
from podar.pruning.options import Options
from podar.runtimes import RUNTIMES, Port, open_file, runtime
from podar.runtimes import register as runtime_registry


class Loom:
    """y = x Wᵀ + b, in numpy."""

    inputs = (Port("x", (None, 4), "float32"),)
    outputs = (Port("y", (None, 3), "float32"),)
    version = "loom 1.0"

    def __init__(self, file: Path) -> None:
        with np.load(file) as stored:
            self.weight, self.bias = stored["weight"], stored["bias"]

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        return [arrays[0] @ self.weight.T + self.bias]


def open_(file: Path, threads: int) -> Loom:
    return Loom(file)


def write_loom(flat: Flat, path: Path, wanted: object) -> list[Attempt]:
    def write() -> Written:
        layer = next(module for module in flat.module.modules() if isinstance(module, nn.Linear))
        with path.open("wb") as file:
            np.savez(file, weight=layer.weight.numpy(), bias=layer.bias.numpy())
        path.with_suffix(".thread").write_text("a thread")
        return Written("a weaver", dynamic_batch=True)

    return [write]


def declare() -> None:
    runtime(
        "loom",
        package="numpy",
        suffixes=(".loom",),
        sidecars=(".thread",),
        widths=3,
        weights=lambda file: file.stat().st_size,
    )(open_)
    file_format("loom", suffix=".loom", runtime="loom", help="looms, of the last century")(write_loom)


if "PYTEST_CURRENT_TEST" in os.environ:  # not while tests are collected: in the process that measures memory
    declare()


@pytest.fixture(scope="module", autouse=True)
def declared() -> Iterator[None]:
    """The runtime and its format, for as long as this file's tests last."""
    declare()
    yield
    format_registry.unregister("loom")
    runtime_registry.unregister("loom")
    assert "loom" not in FORMATS and "loom" not in RUNTIMES


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return podar.export(nn.Linear(4, 3), tmp_path / "net.loom", torch.randn(2, 4)).path


def test_an_export_is_checked_in_it(tmp_path: Path) -> None:
    found = podar.export(nn.Linear(4, 3), tmp_path / "net.loom", torch.randn(2, 4))
    assert (found.format, found.runtime, found.writer) == ("loom", "loom 1.0", "a weaver")
    assert found.parity < 1e-5 and found.dynamic_batch
    assert found.files == (tmp_path / "net.loom", tmp_path / "net.thread")
    assert found.bytes == sum(file.stat().st_size for file in found.files)
    with pytest.raises(PodarError, match=r"in loom 1\.0 it does not compute what the model computes"):
        podar.export(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), tmp_path / "relu.loom", torch.randn(2, 4))
    assert not (tmp_path / "relu.loom").exists() and not (tmp_path / "relu.thread").exists()


def test_it_is_measured(file: Path) -> None:
    found = podar.measure(file, torch.randn(1, 4), seconds=0.05)
    assert found.latency_ms["runtime"] == "loom 1.0" and found.latency_ms["p50"] > 0
    assert found.params == file.stat().st_size and found.macs is None
    assert found.bytes == file.stat().st_size + len("a thread")
    assert found.memory_bytes is not None, found.missing
    with pytest.raises(PodarError, match="any×4 float32, the one given is 1×5 float32"):
        podar.measure(file, torch.randn(1, 5), seconds=0.05, memory=False)
    (line,) = side_by_side([file], torch.randn(1, 4), runtimes=["loom"], seconds=0.05, memory=False)
    assert line.measured is not None
    with pytest.raises(UsageError, match="did you mean loom"):
        podar.measure(file, torch.randn(1, 4), runtime="lom")


def test_cuts_for_it_have_the_widths_that_it_likes() -> None:
    assert liked_widths(["loom"]) == 3 and liked_widths(["loom", "onnx"]) == 24 and liked_widths([]) == 8
    first, second = nn.Linear(4, 30), nn.Linear(30, 30)
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Linear(30, 3))
    podar.prune(model, torch.randn(2, 4), "macs=0.5", options=Options(widths=liked_widths(["loom"])))
    assert first.out_features % 3 == second.out_features % 3 == 0 and first.out_features + second.out_features < 60
    with pytest.raises(UsageError, match="widths is 0"):
        Options(widths=0)


def test_the_command_line_knows_it(file: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
    assert "loom" in options.complete_runtimes("lo") and "loom" in dict(options.complete_formats("lo"))
    monkeypatch.setattr(sys, "argv", ["podar", "bench", str(file), "--input", "x=5x4", "--seconds", "0.05", "--json"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["inputs"] == {"x": [5, 4]} and line["latency_ms"]["runtime"] == "loom 1.0"


def test_a_package_that_is_missing_is_named_with_the_extra_that_brings_it(tmp_path: Path) -> None:
    (tmp_path / "net.absent").write_text("")

    @runtime("absent", package="no_such_package", extra="looms", suffixes=(".absent",))
    def absent(file: Path, threads: int) -> Loom:
        raise AssertionError("the package is asked for first")

    try:
        with pytest.raises(
            PodarError, match=r'no_such_package, which is not installed: run pip install "podar\[looms\]"'
        ):
            open_file(tmp_path / "net.absent")
    finally:
        runtime_registry.unregister("absent")


def test_podar_itself_does_not_mention_it() -> None:
    root = Path(podar.formats.__file__).parent.parent
    assert not [path for path in root.rglob("*.py") if "loom" in path.read_text()]


def test_every_runtime_is_registered_and_none_imports_torch_before_it_must() -> None:
    code = "import sys, podar.measuring, podar.runtimes as r; assert 'torch' not in sys.modules; print(*r.RUNTIMES)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["onnxruntime", "openvino", "torch", "podar"], done.stderr
