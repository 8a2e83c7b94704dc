"""Broken and hostile files of every kind: each ends in exit 1 or 2 and one sentence, no code of theirs is run.

`make test-hostile` draws at least a thousand; here, as in `make test`, it is a sample. Time and memory are limited.
"""

# ruff: noqa: E501
from __future__ import annotations

import copy
import io
import json
import os
import pickle
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from podar import cli

CASES = int(os.environ.get("PODAR_HOSTILE_CASES", "6"))  # of each kind of file
SECONDS = 60  # for one case
MEMORY = 8 << 30  # bytes of address space above what the process has
MARK = "PODAR_HOSTILE_RAN"

RECIPE = {"model": "demo", "stages": [{"prune": {"target": "macs=0.5"}}]}
YOLO = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "C2f", [16, True]]],
    "head": [[[0, 1], 1, "Detect", ["nc"]]],
}
PLAN = {
    "podar_plan": 1,
    "sets": [[0, 1]],
    "steps": [{"cuts": {"w": [[0, 0, 4, 1]]}, "attributes": {"": {"x": 1}}, "rescales": {}, "shapes": {"w": [4]}}],
}
HALF = {"params": 1, "macs": 1, "bytes": 1, "accuracy": 0.5, "latency_ms": {"p50": 1.0, "p95": 1.0, "runtime": "x"}}
SUMMARY = {
    "before": HALF, "after": HALF, "command": "podar", "versions": {}, "layers": [{"name": "a", "before": 2, "after": 1}],
    "points": [{"name": "a", "stage": "dense", "accuracy": 0.5, "macs": 1}], "history": [{"epoch": 1, "loss": 1.0}],
    "pictures": [], "scenes": [{"file": "x.png", "caption": "x"}], "exports": {"onnx": {"file": "x", "dense_file": "x"}},
}  # fmt: skip
STATE = {"recipe": RECIPE, "command": "podar", "done": [{"name": "load", "seconds": 1.0, "found": {}, "model": None}]}
CODE = f"__import__('os').environ.__setitem__('{MARK}', '1')"

hostile: Any = st.sampled_from(
    [None, True, -1, 0, 2**70, 1e308, float("nan"), float("inf"), "", "..", "../../x", "/etc/passwd", "\0", "\ud800", "x" * 5000,
     "\x1b[2J", CODE, "nn.SiLU()", "torch_safe_load", "os.system", "__class__", "http://127.0.0.1:9/x", [], {}, [[[[[[]]]]]],
     {"__class__": 1}, [-1, 1, "check_file", ["http://127.0.0.1:9/x"]], {"$ref": "#"}]
).map(copy.deepcopy)  # fmt: skip  # what is put in is changed by the next mutation


class Bomb:
    """Marks the process where it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return eval, (CODE,)


@st.composite
def mutated(draw: st.DrawFn, good: Any) -> Any:
    """Data with one to three parts replaced, removed, or added."""
    data = copy.deepcopy(good)
    for _ in range(draw(st.integers(1, 3))):
        part: Any = data
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(part[key], (dict, list)) and part[key] and draw(st.booleans()):
                part = part[key]
                continue
            way = draw(st.sampled_from(["replace", "replace", "remove", "add"]))
            if way == "remove":
                del part[key]
            elif way == "add" and isinstance(part, dict):
                part[draw(st.sampled_from(["x", "__class__", "0", "activation", "modules"]))] = draw(hostile)
            else:
                part[key] = draw(hostile)
            break
    return data


def text_of(good: Any) -> st.SearchStrategy[bytes]:
    """JSON (which is YAML, too) of mutated data, cut short, or with bytes changed."""
    whole = mutated(good).map(lambda data: json.dumps(data).encode())
    return whole | st.tuples(whole, st.integers(0, 200)).map(lambda both: both[0][: both[1]]) | noise


noise = st.binary(max_size=200) | st.sampled_from(
    [b"", b"[" * 50_000, b"\xff\xfe\x00", b"a: &a [*a]", b"NaN", b'{"a": 1, "a": 2}', b"- " * 3000, b"!!python/name:os.system x"]
)  # fmt: skip


def archive(content: bytes, name: str = "a/data.pkl", declared: int | None = None) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, content)
        if declared:
            file.writestr("bomb.npy", b"\0" * declared)
    return out.getvalue()


def npy(header: str) -> bytes:
    text = header.ljust(118 - len(header) % 64).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


bomb = pickle.dumps(Bomb())
saved = io.BytesIO()
torch.save({"model": Bomb()}, saved)
state = io.BytesIO()
torch.save({"weight": torch.zeros(4, 3)}, state)
pickles = st.sampled_from([bomb, saved.getvalue(), archive(bomb), state.getvalue()]) | st.builds(
    lambda whole, at, byte: whole[:at] + bytes([byte]) + whole[at + 1 :],
    st.sampled_from([saved.getvalue(), state.getvalue()]), st.integers(0, 900), st.integers(0, 255),
)  # fmt: skip
headers = st.sampled_from(
    ["{'descr': '<f8', 'fortran_order': False, 'shape': (1099511627776,), }", "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
     "{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }", CODE, "{'descr': '|u1', 'fortran_order': False, 'shape': (9, 0, 3), }"]
)  # fmt: skip
arrays = headers.map(lambda header: archive(npy(header), "images.npy")) | st.just(archive(bomb, "images.npy"))
safetensors = st.builds(
    lambda header, size: size.to_bytes(8, "little") + header, text_of({"w": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}),
    st.integers(0, 300) | st.sampled_from([2**40, 2**63]),
)  # fmt: skip
SOURCE = {"model": "demo", "model_args": {}}
CONFIG = {"architectures": ["BertModel"], "model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
          "intermediate_size": 8, "vocab_size": 16}  # fmt: skip

# kind → its content, where it is written, and the command that reads it.
KINDS: dict[str, tuple[st.SearchStrategy[bytes], str, tuple[str, ...]]] = {
    "recipe": (text_of(RECIPE), "r.yaml", ("run", "r.yaml", "--out", "out")),
    "yolo": (text_of(YOLO), "y.yaml", ("inspect", "y.yaml")),
    "plan": (text_of(PLAN), "run/plan.json", ("inspect", "run")),
    "source": (text_of(SOURCE), "run/source.json", ("inspect", "run")),
    "summary": (text_of(SUMMARY), "run/summary.json", ("report", "run")),
    "bench": (text_of(SUMMARY), "run/summary.json", ("bench", "run", "--seconds", "0.01")),
    "state": (text_of(STATE), "run/.work/state.json", ("resume", "run")),
    "checkpoint": (pickles | noise, "x.pt", ("inspect", "x.pt")),
    "weights": (pickles | noise | safetensors, "x.bin", ("inspect", "demo", "--weights", "x.bin")),
    "tensors": (safetensors | noise, "run/model.safetensors", ("inspect", "run")),
    "arrays": (arrays | noise | pickles, "x.npz", ("export", "demo", "--data", "x.npz", "--out", "m.onnx")),
    "program": (pickles | noise, "x.pt2", ("bench", "x.pt2")),
    "onnx": (noise | pickles, "x.onnx", ("bench", "x.onnx")),
    "openvino": (noise | st.just(b"<net><layers><layer/></layers></net>"), "x.xml", ("bench", "x.xml")),
    "engine": (noise | pickles, "x.podar", ("bench", "x.podar")),
    "data": (text_of({"train": "a", "val": "a", "names": ["x"]}), "d.yaml", ("export", "yolo26n.yaml", "--data", "d.yaml")),
    "transformers": (text_of(CONFIG), "t/config.json", ("inspect", "transformers:t")),
}  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "run" / ".work").mkdir(parents=True)
    (tmp_path / "t").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def limited() -> Iterator[None]:
    """A memory bomb fails here, and not with the machine."""
    if sys.platform != "linux":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_anybody(
    kind: str, folder: Path, limited: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    contents, name, command = KINDS[kind]
    monkeypatch.delenv(MARK, raising=False)
    others: dict[str, Callable[[Path], object]] = {
        "run/plan.json": lambda path: path.write_text(json.dumps(PLAN)),
        "run/source.json": lambda path: path.write_text(json.dumps(SOURCE)),
        "run/model.safetensors": lambda path: path.write_bytes((2).to_bytes(8, "little") + b"{}"),
    }
    if kind in ("plan", "source", "tensors"):
        for other, write in others.items():
            if other != name:
                write(folder / other)

    @settings(
        max_examples=CASES, deadline=None, database=None, derandomize=CASES < 20,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )  # fmt: skip
    @given(contents)
    def held(content: bytes) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)  # a run that was resumed to its end took it away
        (folder / name).write_bytes(content)
        began = time.monotonic()
        code = cli.app([*command, "--quiet"], standalone_mode=False, prog_name="podar") or 0
        said = capsys.readouterr().err
        assert MARK not in os.environ, "code of the file was run"
        assert time.monotonic() - began < SECONDS
        assert not said.startswith("Error: unexpected") and "Traceback" not in said, said
        assert not list(folder.glob("**/*.ran"))
        if code:  # a change may leave a file as good as it was
            assert code in (1, 2) and said.startswith("Error: "), said
        for made in ("out", "m.onnx"):
            assert code == 0 or not (folder / made).exists()

    held()


def test_the_bomb_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(MARK, raising=False)
    pickle.loads(bomb)
    assert os.environ[MARK] == "1"
    assert yaml.safe_load(json.dumps(YOLO)) == YOLO
