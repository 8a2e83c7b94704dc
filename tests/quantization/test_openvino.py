"""OpenVINO's files in 8 bits, through NNCF."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError
from podar.quantization.result import FLOAT
from podar.runtimes import open_file

pytest.importorskip("nncf")


def test_both_presets_are_built_and_the_file_runs(
    net: nn.Module, batches: list[tuple[Tensor, Tensor]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = podar.quantize(net, batches, runtime="openvino", out=tmp_path / "net.xml", seconds=0.02)
    rows = {row.encoding: row for row in found.table}
    assert set(rows) >= {FLOAT, "int8 symmetric", "int8 mixed"}
    assert not any(row.reason for row in rows.values())
    assert all(row.error is not None and row.error < 0.2 for row in rows.values())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.bin", "net.xml"]
    (answers,) = open_file(found.path).run([batches[0][0].numpy()])
    assert (answers.argmax(1) == batches[0][1].numpy()).mean() > 0.9
    assert capsys.readouterr().out == ""


def test_what_is_quantised_is_not_quantised_again(net: nn.Module, tmp_path: Path) -> None:
    import nncf
    import openvino as ov

    podar.export(net, tmp_path / "net.xml", torch.randn(1, 3, 12, 12))
    inputs = [torch.randn(2, 3, 12, 12).numpy() for _ in range(2)]
    quantized = nncf.quantize(ov.Core().read_model(str(tmp_path / "net.xml")), nncf.Dataset(inputs), subset_size=2)
    ov.save_model(quantized, str(tmp_path / "once.xml"))
    with pytest.raises(PodarError, match="quantised already"):
        podar.quantize(tmp_path / "once.xml", torch.randn(40, 3, 12, 12), runtime="openvino")
    assert not list(tmp_path.glob("*.int8.*"))
