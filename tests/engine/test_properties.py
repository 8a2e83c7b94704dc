"""The engine computes what torch computes: convolutions and linear layers of any shape, pattern, level and threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

podar_native = pytest.importorskip("podar_native", reason="podar-native is not built here")

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "silu": functional.silu,
    "gelu": functional.gelu,
    "hardswish": functional.hardswish,
    "leaky_relu": lambda x: functional.leaky_relu(x, 0.1),
    "sigmoid": torch.sigmoid,
}


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, Any]:
    """Two spatial axes, or one (of height 1); groups up to depthwise; single weights, or blocks of output channels."""
    flat = draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels, out_channels = (groups * draw(st.integers(1, n)) for n in (9, 13))
    if draw(st.integers(0, 4)) == 0:
        groups = out_channels = channels

    def pair(low: int, high: int, fixed: int) -> tuple[int, int]:
        return (fixed if flat else draw(st.integers(low, high)), draw(st.integers(low, high)))

    kernel, stride, padding, dilation = pair(1, 5, 1), pair(1, 3, 1), pair(0, 3, 0), pair(1, 2, 1)
    size = tuple(
        draw(st.integers(max(1, d * (k - 1) + 1 - 2 * p), 24)) if not (flat and axis == 0) else 1
        for axis, (k, p, d) in enumerate(zip(kernel, padding, dilation))
    )
    return {
        "shape": (draw(st.integers(1, 3)), channels, *size),
        "weight": (out_channels, channels // groups, *kernel),
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "groups": groups,
        "zeros": draw(st.sampled_from([0.0, 0.5, 0.9, 1.0])),
        "block": draw(st.sampled_from([1, 4, 8])),
        "act": draw(st.sampled_from(list(ACTIVATIONS))),
        "residual": draw(st.booleans()),
        "level": draw(st.sampled_from(podar_native.levels())),
        "threads": draw(st.integers(1, 3)),
        "seed": draw(st.integers(0, 1000)),
    }


def sparse(shape: tuple[int, ...], zeros: float, block: int) -> Tensor:
    """Weights of which a share is zero, in blocks of `block` output channels."""
    kept = torch.rand(math.ceil(shape[0] / block), *shape[1:]) >= zeros
    return torch.randn(shape) * kept.repeat_interleave(block, 0)[: shape[0]]


def agree(case: dict[str, Any]) -> None:
    torch.manual_seed(case["seed"])
    x, weight = torch.randn(case["shape"]), sparse(case["weight"], case["zeros"], case["block"])
    bias = torch.randn(len(weight))
    places = {k: case[k] for k in ("stride", "padding", "dilation", "groups")}
    wanted = ACTIVATIONS[case["act"]](functional.conv2d(x.double(), weight.double(), bias.double(), **places))
    network = podar_native.Network()
    entry = network.input(tuple(x.shape[1:]))
    act = podar_native.Activation(case["act"], 0.1 if case["act"] == "leaky_relu" else 0.0)
    y = network.conv(entry, weight.numpy(), bias.numpy(), act=act, **places)
    if case["residual"]:
        y, wanted = network.add(y, y), wanted * 2
    network.output(y, y.shape)
    program = podar_native.build(network, default=podar_native.Choice(case["block"]))
    found = podar_native.Runner(program, level=case["level"], threads=case["threads"])(x.numpy())[0]
    assert found.shape == tuple(wanted.shape)
    assert np.abs(found - wanted.numpy()).max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(convolutions())
def test_a_convolution_is_torchs(case: dict[str, Any]) -> None:
    agree(case)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(convolutions())
def test_a_convolution_is_torchs_over_thousands_of_cases(case: dict[str, Any]) -> None:
    agree(case)
