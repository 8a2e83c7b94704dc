"""Model files that name other files, or code: one sentence, nothing outside their folder is read, nothing is run."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import podar
from podar.errors import PodarError
from podar.runtimes.onnx_files import count_weights, refuse_outside, stored
from podar.sources.benching import bench_models

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")

X = torch.ones(1, 8)
NUMBERS = np.arange(64, dtype=np.float32)


def write(path: Path, location: str | None, *, domain: str = "", inside_a_branch: bool = False) -> Path:
    """y = x W, with W in the file of that name, or in the ONNX file itself (None)."""
    helper, tensor = onnx.helper, onnx.TensorProto(name="w", data_type=1, dims=[8, 8])
    if location is None:
        tensor.raw_data = NUMBERS.tobytes()
    else:
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        tensor.external_data.add(key="length", value=str(NUMBERS.nbytes))
    info = helper.make_tensor_value_info
    nodes, weights = [helper.make_node("MatMul", ["x", "w"], ["y"], domain=domain)], [tensor]
    if inside_a_branch:
        branch = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["b"])], "b", [], [info("b", 1, [1, 8])], [tensor]
        )
        true = helper.make_tensor("true", 9, [], [True])
        nodes, weights = [helper.make_node("If", ["true"], ["y"], then_branch=branch, else_branch=branch)], [true]
    graph = helper.make_graph(nodes, "g", [info("x", 1, [1, 8])], [info("y", 1, [1, 8])], weights)
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder for the model, with numbers inside and outside of it."""
    home = tmp_path / "home"
    home.mkdir()
    for place in (home / "w.bin", tmp_path / "secret.bin"):
        place.write_bytes(NUMBERS.tobytes())
    (home / "link.bin").symlink_to(tmp_path / "secret.bin")
    (home / "up").symlink_to(tmp_path)
    (home / "circle").symlink_to(home / "circle")
    os.mkfifo(home / "pipe")
    return home


def refused(file: Path, words: str) -> None:
    """By measuring, bench and accelerate, in one sentence and at once."""
    started = time.monotonic()
    for runtime in ("onnxruntime", "openvino"):
        with pytest.raises(PodarError, match=words):
            podar.measure(file, X, runtime=runtime, seconds=0.05, memory=False)
    with pytest.raises(PodarError, match=words):
        bench_models([str(file)], seconds=0.05)
    pytest.importorskip("podar_native", reason="podar-native is not built here")
    with pytest.raises(PodarError, match=words) as caught:
        podar.accelerate(file, X)
    assert "\n" not in str(caught.value)
    assert time.monotonic() - started < 30


@pytest.mark.parametrize(
    "location",
    ["../secret.bin", "a/../../secret.bin", "link.bin", "up/secret.bin", "circle", "pipe", "..", "C:\\secret.bin",
     "..\\secret.bin", "\\\\server\\share", "/dev/zero", "/etc/passwd", "w.bin\0", "x" * 5000],
)  # fmt: skip
@pytest.mark.parametrize("inside_a_branch", [False, True])
def test_weights_outside_of_the_folder(home: Path, location: str, inside_a_branch: bool) -> None:
    refused(write(home / "m.onnx", location, inside_a_branch=inside_a_branch), "no file of its own folder")


def test_an_absolute_path_even_into_the_folder(home: Path) -> None:
    refused(write(home / "m.onnx", str(home / "w.bin")), "no file of its own folder")


def test_weights_in_the_folder_are_read_and_counted(home: Path) -> None:
    file = write(home / "m.onnx", "w.bin")
    found = podar.measure(file, X, seconds=0.05, memory=False)
    assert found.params == 64 and stored(file)[0].locations == ("w.bin",)
    inside = write(home / "n.onnx", None)
    assert count_weights(inside) == 64 and stored(inside)[0].locations == ()


def test_a_folder_of_links_as_download_caches_keep_it(home: Path, tmp_path: Path) -> None:
    snapshot = tmp_path / "snapshot"
    snapshot.mkdir()
    write(home / "m.onnx", "w.bin")
    for name in ("m.onnx", "w.bin"):
        (snapshot / name).symlink_to(home / name)
    refuse_outside(snapshot / "m.onnx")


def test_operators_of_a_library_that_nobody_loaded(home: Path) -> None:
    refused(write(home / "m.onnx", None, domain="evil.ops"), r"cannot|can open|opset|support")


XML = """<?xml version="1.0"?>{head}
<net name="{name}" version="11"><layers>
<layer id="0" name="x" type="Parameter" version="opset1"><data shape="1,8" element_type="f32"/>
<output><port id="0" precision="FP32" names="x"><dim>1</dim><dim>8</dim></port></output></layer>
<layer id="1" name="y" type="{kind}" version="{version}" {more}>
<input><port id="0" precision="FP32"><dim>1</dim><dim>8</dim></port></input>
<output><port id="1" precision="FP32" names="y"><dim>1</dim><dim>8</dim></port></output></layer>
<layer id="2" name="r" type="Result" version="opset1">
<input><port id="0" precision="FP32"><dim>1</dim><dim>8</dim></port></input></layer>
</layers><edges><edge from-layer="0" from-port="0" to-layer="1" to-port="0"/>
<edge from-layer="1" from-port="1" to-layer="2" to-port="0"/></edges></net>"""
PLAIN = {"head": "", "name": "m", "kind": "ReLU", "version": "opset1", "more": ""}


@pytest.mark.parametrize(
    "wrong",
    [
        {"version": "extension", "kind": "Evil"},
        {"kind": "Evil", "more": 'library="/tmp/evil.so"'},
        {"version": "/tmp/evil.so"},
        {"head": '<!DOCTYPE x [<!ENTITY e SYSTEM "file:///etc/passwd">]>', "kind": "&e;"},
        {"kind": "Convert", "more": 'path="../secret.bin"'},
    ],
)
def test_openvino_files_that_name_extensions_or_paths(tmp_path: Path, wrong: dict[str, str]) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "m.bin").write_bytes(b"")
    good = tmp_path / "m.xml"
    good.write_text(XML.format(**PLAIN))
    assert podar.measure(good, X, seconds=0.05, memory=False).latency_ms["p50"] > 0
    good.write_text(XML.format(**(PLAIN | wrong)))
    for act in (lambda: podar.measure(good, X, seconds=0.05), lambda: bench_models([str(good)], seconds=0.05)):
        with pytest.raises(PodarError) as caught:
            act()
        assert "\n" not in str(caught.value)


def test_openvino_weights_that_are_a_link_out_of_the_folder(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    home = tmp_path / "home"
    home.mkdir()
    (home / "m.xml").write_text(XML.format(**PLAIN))
    (tmp_path / "secret.bin").write_bytes(NUMBERS.tobytes())
    (home / "m.bin").symlink_to(tmp_path / "secret.bin")
    with pytest.raises(PodarError, match="no file of its own folder"):
        podar.measure(home / "m.xml", X, seconds=0.05)


@given(st.binary(max_size=300), st.integers(0, 250))
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_broken_files_are_left_to_the_runtime(tmp_path: Path, noise: bytes, at: int) -> None:
    file = tmp_path / "m.onnx"
    whole = write(file, "w.bin").read_bytes()
    file.write_bytes(whole[:at] + noise + whole[at + len(noise) :])
    with contextlib.suppress(PodarError):
        refuse_outside(file)
    count_weights(file)


def test_what_protobuf_passes_over_hides_nothing(home: Path) -> None:
    """An unknown group, and a name that is written twice: the last one counts for protobuf, each for us."""
    file = write(home / "m.onnx", "../secret.bin")
    file.write_bytes(bytes([99 << 3 & 127 | 3 | 128, 99 >> 4, 99 << 3 & 127 | 4 | 128, 99 >> 4]) + file.read_bytes())
    onnx.load(str(file), load_external_data=False)
    with pytest.raises(PodarError, match="no file of its own folder"):
        refuse_outside(file)
    model = onnx.load(str(write(home / "n.onnx", "../secret.bin")), load_external_data=False)
    model.graph.initializer[0].external_data.add(key="location", value="w.bin")
    (home / "n.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(PodarError, match="no file of its own folder"):
        refuse_outside(home / "n.onnx")


def test_graphs_inside_graphs_are_read_without_end(tmp_path: Path) -> None:
    """Protobuf would refuse it; ours must not run out of stack."""

    def field(number: int, data: bytes) -> bytes:
        size, out = len(data), bytearray()
        while True:
            out.append(size & 127 | (128 if size > 127 else 0))
            size >>= 7
            if not size:
                return bytes([number << 3 | 2]) + bytes(out) + data

    graph = b""
    for _ in range(3000):
        graph = field(1, field(5, field(6, graph)))
    (tmp_path / "m.onnx").write_bytes(field(7, graph))
    assert stored(tmp_path / "m.onnx") == []


@pytest.mark.parametrize("location", ["w.bin", "../secret.bin", None])
def test_another_format_under_the_name_of_openvino_s_is_refused(home: Path, location: str | None) -> None:
    """OpenVINO looks at what a file holds: what is asked of an ONNX file would not be asked of this one."""
    pytest.importorskip("openvino")
    named = write(home / "m.xml", location)
    for act in (lambda: podar.measure(named, X, seconds=0.05), lambda: bench_models([str(named)], seconds=0.05)):
        with pytest.raises(PodarError, match=r"m\.xml is no XML, which OpenVINO's files are") as caught:
            act()
        assert "\n" not in str(caught.value)


def test_why_openvino_cannot_open_a_file_is_what_it_says_and_not_where(tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    (tmp_path / "m.xml").write_text("<net version='11'><layers><layer/></layers></net>")
    with pytest.raises(PodarError, match="mandatory attribute") as caught:
        podar.measure(tmp_path / "m.xml", X, seconds=0.05)
    assert "Exception from" not in str(caught.value) and "\n" not in str(caught.value)
