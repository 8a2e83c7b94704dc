"""The one reader of batches: what is an input, what a target, and what is refused."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from podar.errors import PodarError
from podar.model.batches import Batch, inputs_of, labelled, read, rows, run

X, STATE, Y = torch.randn(4, 3), torch.randn(4, 3), torch.tensor([0, 1, 2, 1])


class One(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


class Two(nn.Module):
    def forward(self, x: Tensor, state: Tensor) -> Tensor:
        return x + state


class Perhaps(nn.Module):
    def forward(self, x: Tensor, state: Tensor | None = None) -> Tensor:
        return x if state is None else x + state


class Masked(nn.Module):
    def forward(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        return ids if mask is None else ids * mask


class Trains(nn.Module):
    def forward(self, x: Tensor, labels: Tensor | None = None) -> Tensor:
        return x


class Pictures(nn.Module):
    def forward(self, images: list[Tensor], targets: Any = None) -> list[Tensor]:
        assert isinstance(images, list)
        return images


class Pair(nn.Module):
    def forward(self, pair: Any) -> Tensor:
        x, state = pair
        return x + state


class Recurrent(nn.Module):
    def forward(self, x: Tensor, state: Any = None) -> Tensor:
        hidden, cell = state
        return x + hidden + cell


class Several(nn.Module):
    def forward(self, x: Tensor, a: Any = None, b: Any = None, c: Any = None) -> Tensor:
        return x


def same(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    if isinstance(one, dict):
        return isinstance(other, dict) and one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, (tuple, list)):
        return isinstance(other, (tuple, list)) and len(one) == len(other) and all(map(same, one, other))
    return one is other


Named = namedtuple("Named", "x y")


@pytest.mark.parametrize(
    ("model", "batch", "inputs", "targets"),
    [
        (One(), X, X, None),
        (One(), (X, Y), X, Y),
        (One(), [X, Y], X, Y),
        (One(), Named(X, Y), X, Y),
        (One(), (X,), X, None),
        (One(), (X, STATE), X, STATE),
        (One(), (X, Y, STATE), X, (Y, STATE)),
        (One(), {"x": X}, {"x": X}, None),
        (One(), ({"x": X}, Y), {"x": X}, Y),
        (Two(), (X, STATE), (X, STATE), None),
        (Two(), ((X, STATE), Y), (X, STATE), Y),
        (Two(), [[X, STATE], Y], [X, STATE], Y),
        (Two(), (X, STATE, Y), (X, STATE), Y),
        (Two(), ((X, STATE), (Y, Y)), (X, STATE), (Y, Y)),
        (Perhaps(), (X, STATE), (X, STATE), None),
        (Perhaps(), (X, Y), X, Y),
        (Perhaps(), (X, None), X, None),
        (Perhaps(), (X, torch.rand(4, 7)), X, "rest"),  # does not run as a state: a target
        (Perhaps(), (X, {"boxes": Y}), X, {"boxes": Y}),
        (Trains(), (X, torch.rand(4, 3)), X, "rest"),  # its name says what it is
        (Recurrent(), (X, (STATE, STATE)), (X, (STATE, STATE)), None),
        (Pictures(), [X, STATE], [X, STATE], None),
        (Pictures(), ([X, STATE], [{"labels": Y}, {"labels": Y}]), [X, STATE], [{"labels": Y}, {"labels": Y}]),
        (Pair(), ((X, STATE), Y), (X, STATE), Y),
        (nn.DataParallel(Two()), (X, STATE), (X, STATE), None),
    ],
    ids=str,
)
def test_the_models_signature_says_what_is_an_input(model: nn.Module, batch: Any, inputs: Any, targets: Any) -> None:
    (found,) = read([batch], model, "a test")
    assert same(inputs, found.inputs)
    assert same(batch[1] if targets == "rest" else targets, found.targets)
    run(model, found.inputs)


def test_whole_numbers_that_may_be_a_mask_or_labels_are_not_guessed() -> None:
    ids = torch.randint(5, (2, 3))
    with pytest.raises(PodarError, match=r"cannot know whether .* mask: give the inputs alone"):
        list(read([(ids, ids)], Masked(), "a test"))
    with pytest.raises(PodarError, match="which of the 3 parts"):
        list(read([(X, X, X)], Several(), "a test"))


class Samples(torch.utils.data.Dataset[Any]):
    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


class Parts:
    def __init__(self, train: Any) -> None:
        self.train, self.test = train, None


@given(count=st.integers(1, 9), size=st.integers(1, 4))
def test_every_form_of_data_gives_the_same_samples(count: int, size: int) -> None:
    x, y = torch.arange(3.0 * count).view(count, 3), torch.arange(count)
    pairs = [(x[k : k + size], y[k : k + size]) for k in range(0, count, size)]
    forms: list[Any] = [
        pairs,
        torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, y), size),
        Samples([(x[k], int(y[k])) for k in range(count)]),
        Parts(Samples([(x[k], int(y[k])) for k in range(count)])),
        {"train": pairs, "test": []},
    ]
    for form in forms:
        found = list(labelled(form, "a test", batch_size=size))
        assert torch.equal(torch.cat([b.inputs for b in found]), x)
        assert torch.equal(torch.cat([b.targets for b in found]), y)
    for form in [*forms, x, x.numpy(), [x], {"x": x}, Samples([{"x": row} for row in x]), iter([x])]:
        inputs = [i["x"] if isinstance(i, dict) else i for i in inputs_of(form, One(), "a test", batch_size=size)]
        assert torch.equal(torch.cat(inputs), x)


@pytest.mark.parametrize("data", [None, "fashion-mnist", 3, nn.Linear(2, 2)], ids=str)
def test_what_is_no_data_is_refused(data: Any) -> None:
    with pytest.raises(PodarError, match="needs data"):
        list(read(data, One(), "a test"))


def test_no_batch_no_pair_and_no_finite_number_are_refused() -> None:
    for reading in (lambda data: labelled(data, "a test"), lambda data: read(data, One(), "a test")):
        with pytest.raises(PodarError, match="without a single batch"):
            list(reading([]))
        with pytest.raises(PodarError, match="1 NaN or infinite"):
            list(reading([(torch.tensor([[1.0, float("nan")]]), Y[:1])]))
    for odd in (X, (X, Y, Y), {"x": X}):
        with pytest.raises(PodarError, match=r"needs \(inputs, targets\)"):
            list(labelled([odd], "a test"))


def test_limit_and_several_arguments() -> None:
    assert len(list(read([X] * 5, One(), "a test", limit=2))) == 2
    assert torch.equal(run(Two(), [X, STATE]), X + STATE)
    assert torch.equal(run(Two(), {"state": STATE, "x": X}), X + STATE)
    assert torch.equal(run(Pair(), (X, STATE)), X + STATE)


def test_samples_are_cut_along_the_first_axis_of_every_tensor() -> None:
    whole = ((X, {"state": STATE}), Y)
    assert same(((X[1:3], {"state": STATE[1:3]}), Y[1:3]), rows(whole, 1, 3, 4))
    with pytest.raises(PodarError, match=r"its tensor 1 has the shape \(2, 4\)"):
        rows((X, torch.zeros(2, 4)), 0, 1, 4)


def test_arrays_of_numpy_count_as_tensors() -> None:
    (batch,) = read(np.zeros((2, 3), np.float32), One(), "a test")
    assert batch == Batch(batch.inputs) and batch.inputs.shape == (2, 3)
