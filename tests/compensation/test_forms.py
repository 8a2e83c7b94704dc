"""A form's rows and matrix compute what the layer computes, for every convolution and product."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from podar.compensation.forms import Convolution, Product

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


@st.composite
def layers(draw: Any) -> tuple[Any, Convolution, int]:
    rank, transposed = draw(st.sampled_from([1, 2, 3])), draw(st.booleans())
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    into, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    stride = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    given_ = {
        "kernel_size": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "stride": stride,
        "padding": tuple(draw(st.integers(0, 2)) for _ in range(rank)),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        "groups": groups,
        "bias": False,
    }
    extra = (0,) * rank
    if transposed:
        extra = tuple(draw(st.integers(0, s - 1)) for s in stride)
        given_["output_padding"] = extra
    kind = (TRANSPOSED if transposed else CONVOLUTIONS)[rank]
    form = Convolution(stride, given_["padding"], given_["dilation"], transposed, extra, groups)
    return kind(into, out, **given_), form, rank


@settings(max_examples=80, deadline=None)
@given(layers(), st.integers(0, 2**31))
def test_patches_times_matrix_are_the_convolution(made: tuple[Any, Convolution, int], seed: int) -> None:
    layer, form, rank = made
    torch.manual_seed(seed)
    x = torch.randn(2, layer.in_channels, *(7,) * rank)
    with torch.no_grad():
        y = layer(x)
        count = form.positions(x, layer.weight)
        assert count == y.numel() // y.shape[1]
        chosen = torch.randperm(count)[:9]
        got = form.rows(x, layer.weight, chosen) @ form.matrix(layer.weight).mT
        flat = got.transpose(0, 1).reshape(len(chosen), -1)
        torch.testing.assert_close(flat, form.outputs(y, chosen), rtol=1e-4, atol=1e-5)
        assert torch.equal(form.weight(form.matrix(layer.weight), layer.weight), layer.weight)


@pytest.mark.parametrize("inputs_first", [False, True])
def test_products(inputs_first: bool) -> None:
    form = Product(inputs_first)
    weight = torch.randn(5, 3) if inputs_first else torch.randn(3, 5)
    x = torch.randn(2, 4, 5)
    y = x @ (weight if inputs_first else weight.T)
    chosen = torch.tensor([0, 7, 3])
    got = form.rows(x, weight, chosen) @ form.matrix(weight).mT
    torch.testing.assert_close(got[0], form.outputs(y, chosen))
    assert torch.equal(form.weight(form.matrix(weight), weight), weight)
    assert form.positions(x, weight) == 8
