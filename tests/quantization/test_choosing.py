"""quantize: every encoding is in the table, the file computes nearly the same, and bad inputs leave nothing behind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.quantization import Encoding, Prepared, backend, choosing, register
from podar.quantization.result import FLOAT
from podar.runtimes import open_file

Batches = list[tuple[Tensor, Tensor]]
_NAMED = {"S8S8", "S8S8 per channel", "U8U8", "U8S8 per channel, reduced range", "dynamic products"}


@pytest.fixture
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Encodings count as fast as a clock of this test says: the more zeros the slower, float in the middle."""

    def timed(bench: Any, others: Any, seconds: float) -> dict[str, float]:
        own = {name: found for name, found in bench.built.items() if found.session is not None}
        times = {name: 1.0 if name == FLOAT else 0.5 for name in own} | dict.fromkeys(others, 2.0)
        for name, found in own.items():
            row = choosing.replace(found.row, latency_ms=times[name], p50_ms=times[name], ratio=1 / times[name])
            bench.built[name] = choosing.replace(found, row=row)
        return times

    monkeypatch.setattr(choosing, "_time", timed)


def test_every_encoding_is_built_judged_and_timed(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    found = podar.quantize(net, batches, out=tmp_path / "net.int8.onnx", seconds=0.02)
    rows = {row.encoding: row for row in found.table}
    assert set(rows) >= {FLOAT, *_NAMED}
    for row in rows.values():
        assert not row.reason
        assert row.bytes and row.latency_ms and row.ratio and row.error is not None and row.accuracy is not None
    assert rows[FLOAT].error == 0 and rows[FLOAT].accuracy == 1
    assert found.path == tmp_path / "net.int8.onnx" and found.encoding in rows and found.row.keeps
    assert [path.name for path in tmp_path.iterdir()] == ["net.int8.onnx"]
    assert ("slower here" in found.verdict) == (found.encoding == FLOAT)


@pytest.mark.usefixtures("fast")
def test_the_file_holds_what_the_row_says(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    found = podar.quantize(net, batches, out=tmp_path / "a.onnx", budget="agreement>=0.9")
    assert found.encoding != FLOAT and found.row.bytes == found.path.stat().st_size
    session = open_file(found.path)
    images, labels = batches[0]
    (answers,) = session.run([images.numpy()])
    assert (answers.argmax(1) == labels.numpy()).mean() > 0.9
    kinds = {node.op_type for node in onnx.load(str(found.path)).graph.node}
    assert "QuantizeLinear" in kinds and "BatchNormalization" not in kinds  # norms are folded


@pytest.mark.usefixtures("fast")
def test_a_file_is_quantised_like_the_model_it_came_from(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    podar.export(net, tmp_path / "net.onnx", batches[0][0][:1])
    found = podar.quantize(tmp_path / "net.onnx", batches)
    assert found.path == tmp_path / "net.int8.onnx" and found.path.is_file()
    with pytest.raises(PodarError, match="quantised already"):
        podar.quantize(found.path, batches, out=tmp_path / "twice.onnx")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["net.int8.onnx", "net.onnx"]


@pytest.mark.usefixtures("fast")
def test_without_labels_agreement_is_judged_and_said(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    found = podar.quantize(net, torch.cat([images for images, _ in batches]), out=tmp_path / "a.onnx")
    assert found.budget == "agreement>=0.99"
    assert any("no labels" in note for note in found.notes)
    assert all(row.accuracy is None for row in found.table)


@pytest.mark.usefixtures("fast")
def test_one_batch_at_a_time_may_be_fixed_in_the_file(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    podar.export(net, tmp_path / "net.onnx", batches[0][0][:4], dynamic_batch=False)
    found = podar.quantize(tmp_path / "net.onnx", batches, budget="error<=0.5")
    assert found.encoding != FLOAT


class Fragile(nn.Module):
    """Its second layer needs more than eight bits: two large inputs that nearly cancel each other out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        return self.third(self.second(hidden * 1000 + x.repeat(1, 2)) - self.second(hidden * 1000) + 0 * hidden)


@pytest.mark.usefixtures("fast")
def test_layers_go_back_to_float_until_the_budget_holds(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, inputs = Fragile().eval(), torch.randn(128, 8)
    found = podar.quantize(model, inputs, budget="error<=0.1", out=tmp_path / "a.onnx")
    unrepaired = [row for row in found.table if not row.left_out and row.encoding not in (FLOAT, "dynamic products")]
    assert not any(row.keeps for row in unrepaired)
    assert found.encoding == FLOAT or found.row.keeps
    assert found.path.is_file()


def test_where_nothing_is_faster_float_stays(
    net: nn.Module, batches: Batches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(choosing, "_FASTER", math.inf)
    found = podar.quantize(net, batches, out=tmp_path / "a.onnx", seconds=0.02)
    assert found.encoding == FLOAT and "int8 is slower here" in found.verdict
    assert {row.encoding for row in found.table} >= _NAMED
    (answers,) = open_file(found.path).run([batches[0][0].numpy()])
    assert np.allclose(answers, net(batches[0][0]).detach().numpy(), atol=1e-4)


def test_slower_is_not_said_where_an_encoding_could_not_be_built(
    net: nn.Module, batches: Batches, tmp_path: Path
) -> None:
    def fails(path: Path, left_out: Any) -> None:
        raise RuntimeError("no such kernel\nand pages of advice")

    @backend("toy", format="onnx", suffix=".onnx", extra="none", runtime="onnxruntime")
    def prepare(file: Path, samples: Any, folder: Path) -> Prepared:
        return Prepared((Encoding("odd", fails),))

    try:
        found = podar.quantize(net, batches, runtime="toy", out=tmp_path / "a.onnx", seconds=0.02)
    finally:
        register.unregister("toy")
    assert found.encoding == FLOAT and "could not be built" in found.verdict and "slower here" not in found.verdict
    assert found.table[1].reason == "no such kernel"


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (torch.zeros(40, 3, 12, 12), "constant"),
        (torch.full((40, 3, 12, 12), math.nan), "NaN"),
        (torch.randn(1, 3, 12, 12), "one sample"),
        (torch.randn(1, 3, 12, 12).repeat(9, 1, 1, 1), "one sample 9 times"),
        (torch.randn(40, 4, 12, 12), "."),
        (torch.randn(40, 3), "."),
        (torch.randn(40, 3, 12, 12).double(), "float64"),
        ([torch.randn(40, 3, 12, 12), torch.randn(40, 3, 9, 9)], "does not fit the model"),
        ([(torch.randn(40, 3, 12, 12), torch.zeros(3, dtype=torch.long))], "40 samples and 3 labels"),
        ([(torch.randn(40, 3, 12, 12), torch.full((40,), 9))], "the label 9, and the model has 5 outputs"),
        ([], "without a single batch"),
        (None, "needs data"),
        ("no-such-data-anywhere", "no-such-data-anywhere"),
    ],
)
def test_bad_data_are_refused_in_a_sentence(net: nn.Module, data: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(PodarError, match=said) as error:
        podar.quantize(net, data, out=tmp_path / "a.onnx")
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


def test_data_of_another_shape_than_the_file(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    podar.export(net, tmp_path / "net.onnx", batches[0][0][:1])
    with pytest.raises(PodarError, match="does not fit"):
        podar.quantize(tmp_path / "net.onnx", torch.randn(40, 3, 10, 10))


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\x08\x0a\x12\x03"])
def test_what_is_no_model_is_refused(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    file.write_bytes(content)
    with pytest.raises(PodarError, match="net.onnx"):
        podar.quantize(file, torch.randn(40, 3, 12, 12))
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_a_truncated_file_is_refused(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    file = tmp_path / "net.onnx"
    podar.export(net, file, batches[0][0][:1])
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(PodarError, match="net.onnx"):
        podar.quantize(file, batches)
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


def test_what_cannot_be_is_refused_before_anything_is_read(net: nn.Module, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="did you mean onnxruntime"):
        podar.quantize(net, None, runtime="onxruntime")
    with pytest.raises(UsageError, match="did you mean accuracy"):
        podar.quantize(net, None, budget="acuracy>=0.9")
    with pytest.raises(UsageError, match="threads"):
        podar.quantize(net, None, threads=0)
    wrong: Any = None
    with pytest.raises(UsageError, match="NoneType"):
        podar.quantize(wrong, None)
    with pytest.raises(UsageError, match="runtime"):
        podar.quantize(net, None, runtime=wrong)
    with pytest.raises(PodarError, match="no file"):
        podar.quantize(tmp_path / "none.onnx", None)
    (tmp_path / "net.pt2").write_bytes(b"PK")
    with pytest.raises(UsageError, match="ends in .onnx"):
        podar.quantize(tmp_path / "net.pt2", None)
    with pytest.raises(UsageError, match="end in .onnx"):
        podar.quantize(net, None, out=tmp_path / "a.xml")


def test_outputs_that_have_no_top_need_a_budget_of_the_error(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    with pytest.raises(UsageError, match="error<=0.1"):
        podar.quantize(model, torch.randn(40, 3, 8, 8), out=tmp_path / "a.onnx")
    found = podar.quantize(model, torch.randn(40, 3, 8, 8), budget="error<=0.5", out=tmp_path / "a.onnx", seconds=0.02)
    assert found.budget == "error<=0.5"


def test_accuracy_may_be_measured_by_somebody_else(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    seen: list[Path] = []

    def precision(file: Path) -> float:
        seen.append(file)
        kinds = {node.op_type for node in onnx.load(str(file)).graph.node}
        return 0.5 if "QuantizeLinear" not in kinds else 0.499

    data = torch.randn(40, 3, 8, 8)
    found = podar.quantize(model, data, out=tmp_path / "a.onnx", evaluate=precision, seconds=0.02)
    assert found.budget == "accuracy>=0.99" and len(seen) >= len(_NAMED)
    assert [row.accuracy for row in found.table][:2] == [0.5, 0.499]
    with pytest.raises(PodarError, match="train it first"):
        podar.quantize(model, data, out=tmp_path / "b.onnx", evaluate=lambda file: 0.0)


def test_notes_of_a_file_travel_into_its_8_bits(net: nn.Module, batches: Batches, tmp_path: Path) -> None:
    podar.export(net, tmp_path / "net.onnx", batches[0][0][:1])
    told = onnx.load(str(tmp_path / "net.onnx"))
    onnx.helper.set_model_props(told, {"names": "{0: 'shirt'}", "stride": "32"})
    onnx.save(told, str(tmp_path / "net.onnx"))
    found = podar.quantize(tmp_path / "net.onnx", batches, budget="error<=0.5", seconds=0.02)
    props = {entry.key: entry.value for entry in onnx.load(str(found.path)).metadata_props}
    assert props["names"] == "{0: 'shirt'}" and props["stride"] == "32"


def test_a_missing_package_names_the_extra(net: nn.Module) -> None:
    @backend("toy", format="onnx", suffix=".xml", packages=("no_such_one",), extra="quantization", runtime="torch")
    def prepare(file: Path, samples: Any, folder: Path) -> Prepared:
        raise AssertionError

    try:
        with pytest.raises(PodarError, match=r'pip install "podar\[quantization\]"'):
            podar.quantize(net, None, runtime="toy")
    finally:
        register.unregister("toy")
