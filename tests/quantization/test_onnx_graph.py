"""What stays float is known by the graph: softmax, what decodes, and the last layers of a head that joins answers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

import podar
from podar.quantization import onnx_graph


class Head(nn.Module):
    """A detector in small: two branches whose answers are joined; sides of boxes are sums over a softmax."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.boxes, self.scores = nn.Conv2d(8, 16, 1), nn.Conv2d(8, 5, 1)
        self.sides = nn.Conv2d(4, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        boxes = self.boxes(x).flatten(2)
        b, _, n = boxes.shape
        sides = self.sides(boxes.view(b, 4, 4, n).transpose(2, 1).softmax(1)).view(b, 4, n)
        return torch.cat([sides * 8, self.scores(x).flatten(2).sigmoid()], 1)


def opened(model: nn.Module, inputs: Tensor, folder: Path) -> Any:
    podar.export(model, folder / "m.onnx", inputs)
    found = onnx.load(str(folder / "m.onnx"))
    onnx_graph.name_nodes(found)
    return found


def test_a_detector_decodes_in_float(tmp_path: Path) -> None:
    model = opened(Head().eval(), torch.randn(1, 3, 8, 8), tmp_path)
    held = onnx_graph.held(model)
    kinds = {node.name: node.op_type for node in model.graph.node}
    floats = sorted(kinds[name] for name in held)
    assert floats.count("Conv") == 3  # both last layers, and the one that sums up sides
    assert {"Softmax", "Concat", "Sigmoid", "Mul"} <= set(floats)
    rest = [name for name in onnx_graph.layers(model) if name not in held]
    assert len(rest) == 1


def test_of_a_classifier_nothing_is_held(net: nn.Module, tmp_path: Path) -> None:
    model = opened(net, torch.randn(1, 3, 12, 12), tmp_path)
    assert onnx_graph.held(model) == {}
    assert len(onnx_graph.layers(model)) == 3


def test_softmax_in_the_middle_is_held_and_layers_behind_it_are_not(tmp_path: Path) -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).softmax(1) * x)

    model = opened(Gated().eval(), torch.randn(2, 8), tmp_path)
    held = onnx_graph.held(model)
    assert list(held.values()) == ["softmax"]


def test_nodes_get_names_of_their_own() -> None:
    nodes = [onnx.helper.make_node("Relu", ["x"], [f"y{k}"], name=name) for k, name in enumerate(["a", "a", "", ""])]
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], []))
    onnx_graph.name_nodes(model)
    assert len({node.name for node in model.graph.node}) == 4
