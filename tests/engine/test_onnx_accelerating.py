"""ONNX files in the engine: same outputs as ONNX Runtime, the plan, what stays there, bad files said clearly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import podar
from podar.errors import PodarError, UsageError
from podar.model.torchvision_operators import import_torchvision
from podar.runtimes import RUNTIMES, open_in, readers

pytest.importorskip("podar_native", reason="podar-native is not built here")
onnx = pytest.importorskip("onnx")
ort = pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("cache")


def written(tmp_path: Path, model: nn.Module, x: Tensor, amount: float = 0.8) -> Path:
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.weight[torch.rand_like(module.weight) < amount] = 0
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 1.5)  # type: ignore[union-attr]
    path = tmp_path / "model.onnx"
    podar.export(model.eval(), str(path), x)
    return path


def expected(path: Path, *inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {entry.name: value for entry, value in zip(session.get_inputs(), inputs)})


def check(path: Path, x: np.ndarray, **how: Any) -> Any:
    fast = podar.accelerate(path, x, **({"measure": False, "tune": False} | how))
    found = fast(x)
    for one, other in zip(found if isinstance(found, tuple) else (found,), expected(path, x)):
        assert one.shape == other.shape
        assert np.abs(one - other).max() <= 1e-4 * np.abs(other).max()
    return fast


def numbers(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "shufflenet_v2_x0_5"])
def test_a_whole_file_in_the_engine(tmp_path: Path, name: str) -> None:
    x = numbers(1, 3, 64, 64)
    path = written(tmp_path, getattr(import_torchvision().models, name)(num_classes=9), torch.from_numpy(x))
    fast = check(path, x)
    assert any(step.in_engine for step in fast.report.steps)
    given = fast(torch.from_numpy(x))
    assert isinstance(given, Tensor)


class Mixed(nn.Module):
    """Convolutions with operators between them that the engine does not know."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 24, 3, padding=1), nn.Conv2d(24, 24, 3, stride=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.first(x))
        return self.second(torch.flip(y, [3])), y.cumsum(2)


def test_pieces_and_the_plan(tmp_path: Path) -> None:
    x = numbers(1, 3, 20, 24)
    path = written(tmp_path, Mixed(), torch.from_numpy(x))
    fast = check(path, x)
    assert sum(step.in_engine for step in fast.report.steps) == 2
    assert "CumSum" in str(fast.report) and "engine" in str(fast.report)
    with pytest.raises(PodarError, match="no single program"):
        fast.save(tmp_path / "m.podar")
    check(path, x, measure=True)


def test_one_dimension_is_one_program(tmp_path: Path) -> None:
    layers = [
        nn.Conv1d(4, 32, 9, padding=4), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 16, 5, stride=2), nn.MaxPool1d(2),
        nn.Conv1d(16, 16, 3, dilation=2, groups=2), nn.Sigmoid(), nn.AdaptiveAvgPool1d(1), nn.Flatten(),
        nn.Linear(16, 5),
    ]  # fmt: skip
    x = numbers(2, 4, 64)
    fast = check(written(tmp_path, nn.Sequential(*layers), torch.from_numpy(x)), x)
    assert [step.in_engine for step in fast.report.steps] == [True], str(fast.report)
    assert [layer.name for layer in fast.report.steps[0].layers][:2] == ["model.0", "model.3"]


class Rows(nn.Module):
    """A convolution whose positions become rows: the same three axes lie both ways."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv1d(4, 12, 3), nn.Linear(12, 8), nn.Linear(30, 6)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.relu(self.conv(x))
        return self.first(y.transpose(1, 2)), self.second(y)


def test_sequences_that_lie_both_ways(tmp_path: Path) -> None:
    x = numbers(2, 4, 32)
    check(written(tmp_path, Rows(), torch.from_numpy(x)), x)


def test_weights_as_constant_nodes(tmp_path: Path) -> None:
    x = numbers(1, 3, 20, 24)
    path = written(tmp_path, nn.Conv2d(3, 24, 3), torch.from_numpy(x))
    model = onnx.load(str(path))
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    onnx.save(model, str(path))
    assert check(path, x).report.steps[0].in_engine
    assert [r.name for r in readers(path)] == ["onnxruntime", "openvino", "podar"]


def test_half_precision_files_stay_in_onnx_runtime(tmp_path: Path) -> None:
    x = numbers(1, 3, 20, 24).astype(np.float16)
    path = written(tmp_path, nn.Conv2d(3, 24, 3).half(), torch.from_numpy(x))
    fast = podar.accelerate(path, x)
    assert fast.report.whole_in_onnxruntime and "nothing for the engine" in str(fast.report)
    assert np.array_equal(fast(x), expected(path, x)[0])


def test_dense_files_are_no_slower_and_right(tmp_path: Path) -> None:
    x = numbers(1, 3, 32, 32)
    check(written(tmp_path, Mixed(), torch.from_numpy(x), amount=0.0), x, measure=True, tune=True)


def test_sparse_initialisers(tmp_path: Path) -> None:
    weight = numbers(12, 4, 3, 3)
    weight[np.random.default_rng(1).random(weight.shape) < 0.8] = 0
    places = np.flatnonzero(weight)
    values = onnx.numpy_helper.from_array(weight.ravel()[places], "w")
    sparse = onnx.helper.make_sparse_tensor(
        values, onnx.numpy_helper.from_array(places.astype(np.int64), "w_indices"), list(weight.shape)
    )
    info = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])], "g",
        [info("x", 1, [1, 4, 9, 9])], [info("y", 1, [1, 12, 9, 9])], sparse_initializer=[sparse],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=9)
    onnx.save(model, str(tmp_path / "sparse.onnx"))
    fast = check(tmp_path / "sparse.onnx", numbers(1, 4, 9, 9))
    assert fast.report.steps[0].in_engine and fast.report.steps[0].layers[0].sparse
    fast.save(tmp_path / "m.podar")
    from podar_native import Runner

    x = numbers(1, 4, 9, 9)
    assert np.array_equal(Runner(tmp_path / "m.podar")(x)[0], fast(x))


def test_bad_files_and_inputs(tmp_path: Path) -> None:
    with pytest.raises(PodarError, match="no such file"):
        podar.accelerate(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"broken")
    with pytest.raises(PodarError, match="not a model that ONNX Runtime can open"):
        podar.accelerate(tmp_path / "broken.onnx")
    x = numbers(1, 3, 20, 24)
    path = written(tmp_path, Mixed(), torch.from_numpy(x))
    with pytest.raises(PodarError, match="does not fit"):
        podar.accelerate(path, x[:, :2])
    with pytest.raises(PodarError, match="does not fit"):
        podar.accelerate(path, x.astype(np.float64))
    fast = podar.accelerate(path, x, measure=False, tune=False)
    with pytest.raises(PodarError, match="accelerate the file again"):
        fast(x[:, :, :10])
    with pytest.raises(PodarError, match="float16"):
        fast(x.astype(np.float16))
    with pytest.raises(PodarError, match="cannot be given to a runtime"):
        fast(torch.from_numpy(x).bfloat16())
    with pytest.raises(UsageError, match="cannot be trained"):
        fast.train()


def test_measured_beside_the_dense_runtimes(tmp_path: Path) -> None:
    x = torch.from_numpy(numbers(1, 3, 20, 24))
    path = written(tmp_path, Mixed(), x)
    assert [r.name for r in readers(path)] == ["onnxruntime", "openvino", "podar"]
    opened = open_in("podar", path, x, 1)
    assert opened.version.startswith("podar-native") and opened.run()
    assert 0 < (RUNTIMES["podar"].weights(path) or 0) < 24 * 27 + 24 * 24 * 9
    dense = tmp_path / "dense"
    dense.mkdir()
    assert [r.name for r in readers(written(dense, Mixed(), x, amount=0.0))] == ["onnxruntime", "openvino"]


def file_of(path: Path, nodes: list[Any], weights: dict[str, np.ndarray], shape: list[Any], outputs: list[Any]) -> Path:
    graph = onnx.helper.make_graph(
        nodes, "g", [onnx.helper.make_tensor_value_info("x", 1, shape)], outputs,
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=9), str(path))
    return path


def thin(*shape: int) -> np.ndarray:
    return numbers(*shape) * (np.random.default_rng(1).random(shape) > 0.8)


def branches(then: list[Any], otherwise: list[Any], shape: list[Any]) -> list[Any]:
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    return [
        node("Conv", ["x", "w"], ["c"]),
        node("ReduceSum", ["c"], ["s"], keepdims=0),
        node("Greater", ["s", "low"], ["b"]),
        node(
            "If", ["b"], ["i"],
            then_branch=onnx.helper.make_graph(then, "then", [], [info("t", 1, shape)]),
            else_branch=onnx.helper.make_graph(otherwise, "else", [], [info("e", 1, shape)]),
        ),
        node("Conv", ["i", "v"], ["y"]),
    ]  # fmt: skip


WEIGHTS = {"w": thin(12, 3, 3, 3), "v": thin(8, 12, 3, 3), "low": np.float32(-1e9)}
OUT = [onnx.helper.make_tensor_value_info("y", 1, None)]


@pytest.mark.parametrize("measure", [True, False])
def test_a_branch_stays_in_onnx_runtime(tmp_path: Path, measure: bool) -> None:
    node = onnx.helper.make_node
    nodes = branches([node("Relu", ["c"], ["t"])], [node("Neg", ["c"], ["e"])], [1, 12, 10, 10])
    path = file_of(tmp_path / "if.onnx", nodes, {k: np.asarray(v) for k, v in WEIGHTS.items()}, [1, 3, 12, 12], OUT)
    assert "If: the engine has no such operator" in str(check(path, numbers(1, 3, 12, 12), measure=measure).report)


def test_a_loop_stays_in_onnx_runtime(tmp_path: Path) -> None:
    info, node = onnx.helper.make_tensor_value_info, onnx.helper.make_node
    body = onnx.helper.make_graph(
        [node("Relu", ["a"], ["r"]), node("Mul", ["r", "r"], ["m"]), node("Identity", ["go"], ["on"])], "body",
        [info("turn", 7, []), info("go", 9, []), info("a", 1, None)], [info("on", 9, []), info("m", 1, None)],
    )  # fmt: skip
    nodes = [node("Conv", ["x", "w"], ["c"]), node("Loop", ["n", "", "c"], ["l"], body=body),
             node("Conv", ["l", "v"], ["y"])]  # fmt: skip
    weights = {"w": WEIGHTS["w"] * 0.1, "v": WEIGHTS["v"], "n": np.int64(2)}
    path = file_of(tmp_path / "l.onnx", nodes, {k: np.asarray(v) for k, v in weights.items()}, [1, 3, 12, 12], OUT)
    assert "Loop: the engine has no such operator" in str(check(path, numbers(1, 3, 12, 12)).report)


def test_a_file_that_cannot_be_taken_apart_runs_whole(tmp_path: Path) -> None:
    """The branch that is not taken does not fit the example: with its sizes the file cannot be opened."""
    node = onnx.helper.make_node
    nodes = branches([node("Relu", ["c"], ["t"])], [node("MatMul", ["c", "z"], ["e"])], ["n", 12, "high", "wide"])
    weights = {k: np.asarray(v) for k, v in (WEIGHTS | {"z": thin(77, 10)}).items()}
    path = file_of(tmp_path / "open.onnx", nodes, weights, ["n", 3, "high", "wide"], OUT)
    fast = check(path, numbers(1, 3, 12, 12))
    assert fast.report.whole_in_onnxruntime and "cannot take the file apart" in str(fast.report)


def test_sequences_between_operators(tmp_path: Path) -> None:
    node = onnx.helper.make_node
    nodes = [
        node("Conv", ["x", "w"], ["c"]), node("SequenceConstruct", ["c", "c"], ["q"]),
        node("SequenceAt", ["q", "one"], ["a"]), node("Conv", ["a", "v"], ["y"]),
    ]  # fmt: skip
    weights = {"w": WEIGHTS["w"], "v": WEIGHTS["v"], "one": np.int64(1)}
    path = file_of(tmp_path / "s.onnx", nodes, {k: np.asarray(v) for k, v in weights.items()}, [1, 3, 12, 12], OUT)
    check(path, numbers(1, 3, 12, 12))
