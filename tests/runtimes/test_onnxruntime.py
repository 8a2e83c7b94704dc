"""Sessions of ONNX Runtime: quiet, with as many threads as asked for; what they want; files that are none."""

from __future__ import annotations

import numpy as np
import pytest

from podar.errors import PodarError
from podar.runtimes.onnxruntime import serving, session
from podar.runtimes.session import Port

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")


def model(kind: int, shape: list[int | str]) -> bytes:
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [info("x", kind, shape)], [info("y", kind, shape)]
    )
    opset = [onnx.helper.make_opsetid("", 17)]
    return onnx.helper.make_model(graph, opset_imports=opset, ir_version=9).SerializeToString()


def test_a_session_and_what_it_wants() -> None:
    opened = session(model(onnx.TensorProto.FLOAT, ["batch", 3]), threads=2, enable_mem_pattern=False)
    options = opened.get_session_options()
    assert options.intra_op_num_threads == 2 and not options.enable_mem_pattern
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    served = serving(opened, "m.onnx")
    assert served.inputs == (Port("x", (None, 3), "float32"),)
    assert served.outputs == (Port("y", (None, 3), "float32"),) and served.version.startswith("onnxruntime ")
    (y,) = served.run([np.ones((2, 3), np.float32)])
    assert (y == 1).all()


def test_what_cannot_be_opened_or_given(tmp_path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(PodarError, match=r"broken\.onnx is not a model that ONNX Runtime can open"):
        session(tmp_path / "broken.onnx", threads=1)
    with pytest.raises(PodarError, match="the piece is not a model"):
        session(b"broken", threads=1, name="the piece")
    with pytest.raises(PodarError, match=r"m\.onnx cannot be run here: its input x is a tensor\(bfloat16\)"):
        serving(session(model(onnx.TensorProto.BFLOAT16, [1]), threads=1), "m.onnx")
