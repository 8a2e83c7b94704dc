"""Inputs of the shapes that are asked for, of files and of modules, and what is no shape."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import podar
from podar.errors import PodarError, UsageError
from podar.measuring.shaping import parse_shapes, shaped_file, shaped_module, with_shapes

pytest.importorskip("onnxruntime")

pytestmark = pytest.mark.usefixtures("cache")


def test_inputs_of_the_shapes_and_types_that_a_file_takes(tmp_path: Path, sparse: nn.Module) -> None:
    podar.export(sparse.half(), tmp_path / "half.onnx", torch.randn(1, 3, 12, 12).half())
    (x,) = shaped_file("half", tmp_path / "half.onnx").inputs.values()
    assert x.shape == (1, 3, 12, 12) and x.dtype == torch.float16
    (tmp_path / "broken.podar").write_bytes(b"broken")
    with pytest.raises(PodarError, match=r"broken\.podar"):
        shaped_file("broken", tmp_path / "broken.podar")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("image=1x3x0x3", "has a size of 0"),
        ("image=1x3xbig", "is no NAME=SHAPE"),
        ("image=", "is no NAME=SHAPE"),
        ("1x-3", "is no NAME=SHAPE"),
        ("=1x3", "is no NAME=SHAPE"),
        ("image=1x3x99999999999", "more than"),
    ],
)
def test_what_is_no_shape_is_said(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        parse_shapes([text])


def test_shapes_are_read_with_and_without_a_name() -> None:
    assert parse_shapes(["a=1x3", "b.c_1=2×5", "7"]) == {"a": (1, 3), "b.c_1": (2, 5), "": (7,)}
    with pytest.raises(UsageError, match="gives a twice"):
        parse_shapes(["a=1x3", "a=1x4"])


class Taking(nn.Module):
    def forward(self, first: Any, *others: torch.Tensor, scale: float = 1.0, **named: torch.Tensor) -> torch.Tensor:
        return first["a"] * scale


def test_inputs_bear_the_names_that_an_exported_file_gives_them() -> None:
    x = torch.zeros(2, 3)
    own = shaped_module("taking", Taking(), ({"a": x, "b": [x, "text"]}, x, x))
    assert list(own.shapes) == ["first_a", "first_b_0", "others_0", "others_1"]
    other = with_shapes(own, {"first_b_0": (5, 3)}, batch_size=2)
    assert other.shapes == {"first_a": (4, 3), "first_b_0": (5, 3), "others_0": (4, 3), "others_1": (4, 3)}
    assert other.inputs[0]["b"][1] == "text" and own.inputs[0]["b"][0] is x
    named = shaped_module("taking", Taking(), {"first": {"a": x}, "scale": 2.0, "mask": x})
    assert list(named.shapes) == ["first_a", "mask"]
    assert list(with_shapes(named, {"mask": (1, 1)}, 1).inputs) == ["first", "scale", "mask"]
    assert shaped_module("taking", Taking(), lambda model: model({"a": x})).shapes == {}
