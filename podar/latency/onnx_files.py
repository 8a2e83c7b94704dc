"""A fused layer as a small ONNX file, whose weights are made when it is opened: some hundred bytes at any width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from podar.errors import require
from podar.latency.layers import Layer

OPSET = 20
"""The oldest opset in which every activation is one operator."""

IR = 9

Node = Callable[..., str]


def onnx_file(layer: Layer, times: int = 1) -> bytes:
    """The bytes of an ONNX file that computes one layer; with `times` above 1 the layer over and over.

    **Raises:** `PodarError`: the package onnx is missing.
    """
    require("onnx", extra="onnx")
    from onnx import TensorProto, helper

    nodes: list[Any] = []
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, layer.input)]

    def node(operator: str, *given: str, **settings: Any) -> str:
        name = f"v{len(nodes)}"
        nodes.append(helper.make_node(operator, list(given), [name], **settings))
        return name

    constants: list[Any] = []

    def filled(shape: tuple[int, ...]) -> str:
        """A tensor that holds one number everywhere, which the runtime makes when it opens the file."""
        constants.append(helper.make_tensor(f"c{len(constants)}", TensorProto.INT64, [len(shape)], shape))
        value = helper.make_tensor("value", TensorProto.FLOAT, [1], [0.01])
        return node("ConstantOfShape", constants[-1].name, value=value)

    def scalar(number: float) -> str:
        constants.append(helper.make_tensor(f"c{len(constants)}", TensorProto.FLOAT, [], [number]))
        return constants[-1].name

    x = "x"
    for turn in range(times):
        x = _layer(layer, x, node, filled)
        for name in layer.tail:
            if name == "add":
                inputs.append(helper.make_tensor_value_info(f"y{turn}{len(inputs)}", TensorProto.FLOAT, layer.output))
                x = node("Add", x, inputs[-1].name)
            else:
                x = _activation(name, x, node, scalar)
    nodes[-1].output[0] = "out"
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, layer.output)
    graph = helper.make_graph(nodes, "layer", inputs, [output], constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR)
    return model.SerializeToString()


def _layer(layer: Layer, x: str, node: Node, filled: Callable[[tuple[int, ...]], str]) -> str:
    if layer.kind == "linear":
        bias = filled((layer.outputs,))
        if len(layer.input) == 2:
            return node("Gemm", x, filled(layer.weight), bias, transB=1)
        return node("Add", node("MatMul", x, filled(layer.weight[::-1])), bias)
    settings: dict[str, Any] = {
        "kernel_shape": layer.kernel,
        "strides": layer.stride,
        "pads": (*layer.padding, *layer.padding),
        "dilations": layer.dilation,
        "group": layer.groups,
    }
    if layer.transposed:
        return node(
            "ConvTranspose", x, filled(layer.weight), filled((layer.outputs,)), output_padding=layer.extra, **settings
        )
    return node("Conv", x, filled(layer.weight), filled((layer.outputs,)), **settings)


def _activation(name: str, x: str, node: Node, scalar: Callable[[float], str]) -> str:
    """An activation as exporters write it."""
    if name == "silu":
        return node("Mul", x, node("Sigmoid", x))
    if name in ("relu6", "hardtanh"):
        return node("Clip", x, scalar(0.0), scalar(6.0))
    if name == "hardsigmoid":
        return node("HardSigmoid", x, alpha=1 / 6, beta=0.5)
    plain = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh", "gelu": "Gelu", "hardswish": "HardSwish"}
    return node({**plain, "leaky_relu": "LeakyRelu", "elu": "Elu"}[name], x)
