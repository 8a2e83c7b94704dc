"""Calls of an accelerated model: any way that means the example's call, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from podar.engine.calling import as_arguments, calling, check_on_cpu
from podar.errors import PodarError, UsageError

X, Y = torch.ones(1, 3), torch.zeros(1, 2)


class Two(nn.Module):
    def forward(self, x: Tensor, boxes: Any, *, scale: float = 1.0, flag: bool = False) -> Tensor:
        raise NotImplementedError


@pytest.mark.parametrize(
    "example",
    [((X, [Y]), {"scale": 2.0}), ((), {"scale": 2.0, "boxes": [Y], "x": X}), ((X,), {"boxes": [Y], "scale": 2})],
)
def test_any_way_that_means_the_same_comes_in_the_examples_form(example: Any) -> None:
    how = calling(Two(), *example, open_batch=False)
    for args, kwargs in (((X, [Y]), {"scale": 2.0}), ((X,), {"scale": 2.0, "boxes": [Y], "flag": False})):
        (found_args, found_kwargs), tensors = how.fitted(args, kwargs)
        assert len(found_args) == len(example[0]) and list(found_kwargs) == list(example[1])
        assert {id(t) for t in tensors} == {id(X), id(Y)}


@pytest.mark.parametrize(
    ("args", "kwargs", "words"),
    [
        ((X, [Y]), {"scale": 3.0}, "scale was 2.0 when this model was accelerated and is 3.0 now"),
        ((X, [Y]), {}, "scale was 2.0 when this model was accelerated and is 1.0 now"),
        ((X, [Y]), {"scale": Y}, "prepared for inputs of 1×3, 1×2 and got 1×3, 1×2, 1×2"),
        ((X, [Y]), {"scale": 2.0, "flag": True}, "flag was not given when"),
        ((X, (Y, Y)), {"scale": 2.0}, "prepared for inputs"),
        ((X, {"one": Y}), {"scale": 2.0}, r"inputs x, boxes\.0, scale and got x, boxes\.one, scale"),
        ((X, [Y[:, :1]]), {"scale": 2.0}, "and got 1×3, 1×1: accelerate the model again"),
        ((X[0], [Y]), {"scale": 2.0}, "and got 3, 1×2"),
        ((X.half(), [Y]), {"scale": 2.0}, "takes torch.float32 and got torch.float16"),
        ((X.to("meta"), [Y]), {"scale": 2.0}, "the input lies on meta"),
        ((X.numpy(), [Y]), {"scale": 2.0}, "takes tensors and got a ndarray"),
        ((X,), {"scale": 2.0}, "missing a required argument: 'boxes'"),
        ((X, [Y], 2.0), {}, "too many positional arguments"),
    ],
)
def test_what_is_not_like_the_example_is_said(args: Any, kwargs: Any, words: str) -> None:
    how = calling(Two(), (X, [Y]), {"scale": 2.0}, open_batch=False)
    with pytest.raises(PodarError, match=words):
        how.fitted(args, kwargs)


def test_only_the_batch_is_open() -> None:
    how = calling(Two(), (X, [Y]), {}, open_batch=True)
    how.fitted((X.expand(5, 3), [Y.expand(5, 2)]), {})
    with pytest.raises(PodarError, match="prepared for inputs"):
        how.fitted((X.expand(5, 3), [Y[:, :1]]), {})


def test_values_that_cannot_be_compared_are_not_equal() -> None:
    how = calling(Two(), (X, np.zeros(2)), {}, open_batch=False)
    with pytest.raises(PodarError, match="boxes was"):
        how.fitted((X, np.zeros(2)), {})


def test_example_inputs_and_models_that_do_not_serve() -> None:
    assert as_arguments({"x": X}) == ((), {"x": X}) and as_arguments([X]) == ((X,), {})
    for inputs, words in (((), "holds no tensor"), (lambda model: model(X), "no tensor, tuple or dict")):
        with pytest.raises(UsageError, match=words):
            as_arguments(inputs)
    with pytest.raises(PodarError, match=r"an input lies on meta"):
        as_arguments(X.to("meta"))
    with pytest.raises(PodarError, match=r"1\.weight lies on meta: move the model"):
        check_on_cpu(nn.Sequential(nn.ReLU(), nn.Linear(2, 2, device="meta")))
