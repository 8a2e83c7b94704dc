"""Networks and files for the measuring tests; files are written by onnx's helper, since exporters are a sibling."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
from torch import Tensor, nn


class Pair(nn.Module):
    """Two inputs by name."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 4))

    def forward(self, a: Tensor, b: Tensor) -> dict[str, Tensor]:
        return {"sum": self.body(a) + b}


def write_mlp(path: Path, width: int, layers: int = 2) -> Path:
    """An ONNX file: x (batch × 64) → `layers` square matrices of `width`, with relu between them."""
    from onnx import TensorProto, checker, helper, numpy_helper, save

    rng = np.random.default_rng(0)
    nodes, weights, sizes, last = [], [], [64, *[width] * layers], "x"
    for index, (rows, columns) in enumerate(pairwise(sizes)):
        weight = rng.standard_normal((rows, columns), dtype=np.float32) / np.float32(rows) ** 0.5
        weights.append(numpy_helper.from_array(weight, f"w{index}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{index}"], [f"h{index}"]))
        nodes.append(helper.make_node("Relu", [f"h{index}"], [f"r{index}"]))
        last = f"r{index}"
    graph = helper.make_graph(
        nodes,
        "mlp",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 64])],
        [helper.make_tensor_value_info(last, TensorProto.FLOAT, ["batch", width])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    checker.check_model(model)
    save(model, str(path))
    return path
