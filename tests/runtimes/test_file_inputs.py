"""Example inputs matched with a file's: by name or in order, never by guess; what does not fit is said."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from podar.errors import PodarError, UsageError
from podar.runtimes.file_inputs import arrays, matched, random_inputs
from podar.runtimes.session import Port

X, IDS = np.zeros((2, 3), np.float32), np.ones((2, 5), np.int64)
TWO = [Port("x", (None, 3), "float32"), Port("ids", (None, 5), "int64")]


def test_nested_inputs_by_their_paths() -> None:
    found = arrays({"x": torch.ones(2), "boxes": [X, (IDS,)]})
    assert list(found) == ["x", "boxes.0", "boxes.1.0"] and found["boxes.1.0"] is IDS
    assert list(arrays(X)) == [""]


def test_by_name_in_any_order_and_in_order_without_names() -> None:
    for inputs in ({"ids": IDS, "x": X}, (X, IDS), [X, (IDS,)], {"ids": IDS, "more": X, "x": X}):
        found = matched("m.onnx", TWO, inputs)
        assert list(found) == ["x", "ids"] and found["ids"].dtype == np.int64
    assert list(matched("m.onnx", TWO[:1], {"image": X})) == ["x"]  # one and one: no other way
    assert list(matched("m.onnx", [Port("boxes_1", (2, 3), "float32")], {"boxes": [IDS, X]})) == ["boxes_1"]


def test_arrays_that_lie_apart_come_out_in_one_piece() -> None:
    (found,) = matched(
        "m.onnx", [Port("x", (3, 2), "float32")], np.arange(6, dtype=np.float32).reshape(2, 3).T
    ).values()
    assert found.flags.c_contiguous and found[1, 0] == 1
    assert matched("m.onnx", [Port("s", (), "float32")], np.zeros((), np.float32))["s"].shape == ()


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (X, r"takes 2 inputs \(x, ids\), but 1 was given"),
        ({"x": X, "tokens": IDS}, "takes the inputs x, ids, but x, tokens were given"),
        ((X[:, :2], IDS), r"m\.onnx: its input x is any×3 float32, the one given is 2×2 float32; resize it\."),
        ((X.astype(np.float16), IDS), "float16"),
        ((X, IDS.ravel()), "ids is any×5 int64, the one given is 10 int64"),
        ((torch.zeros(2, 3, dtype=torch.bfloat16), IDS), "cannot be given to a runtime"),
        ((torch.zeros(2, 3, device="meta"), IDS), "cannot be given to a runtime"),
    ],
)
def test_what_does_not_fit_is_said(inputs: object, words: str) -> None:
    with pytest.raises(PodarError, match=words):
        matched("m.onnx", TWO, inputs, advice="; resize it")


def test_a_callable_is_no_input_of_a_file() -> None:
    with pytest.raises(UsageError, match="instead of a callable"):
        arrays(lambda model: model(X))


def test_drawn_inputs_fit() -> None:
    wanted = [*TWO, Port("half", (2,), "float16"), Port("flag", (), "bool")]
    found = random_inputs(wanted)
    assert [(a.shape, a.dtype.name) for a in found.values()] == [
        ((1, 3), "float32"), ((1, 5), "int64"), ((2,), "float16"), ((), "bool")
    ]  # fmt: skip
    assert matched("m.onnx", wanted, found).keys() == found.keys()


def test_a_file_whose_inputs_have_no_names_takes_them_in_order() -> None:
    places = [Port("0", (2, 3), "float32"), Port("1", (2, 5), "int64")]
    assert list(matched("m.pt2", places, {"x": X, "ids": IDS})) == ["0", "1"]


def test_bfloat16_is_given_as_float32() -> None:
    (found,) = matched("m.pt2", [Port("x", (2,), "bfloat16")], torch.ones(2, dtype=torch.bfloat16)).values()
    assert found.dtype == np.float32 and (found == 1).all()
