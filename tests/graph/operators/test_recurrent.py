"""Recurrent layers and cells, packed sequences and projections: units, inputs and states go, and the oracle holds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pack_sequence, pad_packed_sequence

import podar
from tests.graph.oracle import difference

EXACT = 1e-9
LENGTHS = torch.tensor([4, 2, 3])
SEQUENCES = (torch.zeros(3, 4, 5), LENGTHS)


def half(model: nn.Module, inputs: Any) -> Any:
    return podar.prune(model, inputs, "channels=0.5", scope="local")


class Layers(nn.Module):
    """An encoder of steps, recurrent layers, and a head that reads every step or the last states."""

    def __init__(self, kind: Any, packed: str = "", start: str = "", last: bool = False, **options: Any) -> None:
        super().__init__()
        self.packed, self.start, self.last = packed, start, last
        self.into = nn.Linear(5, 8)
        self.recurrent: Any = kind(8, 6, **options)
        own, directions = options.get("proj_size") or 6, 2 if options.get("bidirectional") else 1
        self.count = directions * options.get("num_layers", 1)
        self.head = nn.Linear(own if last else own * directions, 3)
        if start == "given":
            self.state, self.cell = nn.Linear(5, own), nn.Linear(5, 6)
        elif start == "learned":
            self.state, self.cell = (
                nn.Parameter(torch.rand(self.count, 1, own)),
                nn.Parameter(torch.rand(self.count, 1, 6)),
            )

    def states(self, x: Tensor) -> Any:
        if not self.start:
            return None
        state, cell = self.state, self.cell
        if isinstance(state, nn.Linear) and isinstance(cell, nn.Linear):
            found = [one(x[:, 0]).tanh().repeat(self.count, 1, 1) for one in (state, cell)]
        else:
            found = [one.repeat(1, len(x), 1) for one in (state, cell)]  # pyright: ignore
        return tuple(found) if isinstance(self.recurrent, nn.LSTM) else found[0]

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        first = self.recurrent.batch_first
        states = self.states(x)
        y = self.into(x if first else x.transpose(0, 1))
        if self.packed:
            y = pack_padded_sequence(y, lengths, first, enforce_sorted=self.packed == "sorted")
        y, ends = self.recurrent(y, states)
        if self.last:
            return self.head((ends[0] if isinstance(ends, tuple) else ends)[-1])
        if self.packed:
            y, _ = pad_packed_sequence(y, first)
        return self.head(y)


@given(
    kind=st.sampled_from([nn.LSTM, nn.GRU, nn.RNN]),
    packed=st.sampled_from(["", "sorted", "unsorted"]),
    start=st.sampled_from(["", "given", "learned"]),
    last=st.booleans(),
    layers=st.integers(1, 2),
    bidirectional=st.booleans(),
    batch_first=st.booleans(),
    bias=st.booleans(),
    projection=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_units_inputs_and_states_go(
    kind: Any, packed: str, start: str, last: bool, layers: int, projection: bool, **options: bool
) -> None:
    more: dict[str, Any] = {**options, "num_layers": layers}
    if projection and kind is nn.LSTM:
        more["proj_size"] = 4
    lengths = LENGTHS.sort(descending=True).values if packed == "sorted" else LENGTHS
    worst, result = difference(
        lambda: Layers(kind, packed, start, last, **more).eval(),
        (torch.zeros(3, 4, 5), lengths),
        half,
        (torch.randn(3, 4, 5), lengths),
    )
    assert worst < EXACT
    cut = result.model.recurrent
    assert (cut.input_size, cut.hidden_size, cut.proj_size) == (4, 3, 2 if "proj_size" in more else 0)
    cut.train()
    result.model(
        *(v.double() if v.is_floating_point() else v for v in (torch.randn(3, 4, 5), lengths))
    ).sum().backward()


class Cells(nn.Module):
    """One or two cells in a loop, from states of nothing or of what the model makes."""

    def __init__(self, kind: Any, start: str, two: bool, bias: bool = True) -> None:
        super().__init__()
        self.start, self.width = start, 6
        self.into, self.first = nn.Linear(5, 8), kind(8, 6, bias=bias)
        self.second = kind(6, 6, bias=bias) if two else None
        self.state, self.head = nn.Linear(5, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        one: Any = None
        if self.start == "zeros":
            one = torch.zeros(len(x), self.width, dtype=x.dtype)
        elif self.start == "made":
            one = self.state(x[:, 0]).sigmoid()
        if self.start and isinstance(self.first, nn.LSTMCell):
            one = (one, torch.zeros_like(one))
        two: Any = None
        made = []
        for step in self.into(x).relu().unbind(1):
            one = self.first(step, one)
            y = one[0] if isinstance(one, tuple) else one
            if self.second is not None:
                two = self.second(y, two)
                y = two[0] if isinstance(two, tuple) else two
            made.append(y)
        return self.head(torch.stack(made, 1))


@pytest.mark.parametrize("kind", [nn.LSTMCell, nn.GRUCell, nn.RNNCell])
@pytest.mark.parametrize("start", ["", "zeros", "made"])
@pytest.mark.parametrize(("two", "bias"), [(False, True), (True, False)])
def test_cells_in_a_loop(kind: Any, start: str, two: bool, bias: bool) -> None:
    worst, result = difference(lambda: Cells(kind, start, two, bias).eval(), SEQUENCES, half)
    assert worst < EXACT
    cells = [result.model.first, *([result.model.second] if two else [])]
    assert [(c.input_size, c.hidden_size) for c in cells] == [(4, 3), (3, 3)][: len(cells)]


class Translator(nn.Module):
    """A packed encoder, and a decoder that looks at its steps and reads the word that it wrote before."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.encoder = nn.Embedding(9, 8), nn.GRU(8, 6, batch_first=True, bidirectional=True)
        self.bridge, self.cell = nn.Linear(12, 10), nn.LSTMCell(8 + 12, 10)
        self.query, self.out = nn.Linear(10, 12), nn.Linear(10 + 12, 9)

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(self.words(ids), lengths, batch_first=True, enforce_sorted=False)
        packed, ends = self.encoder(packed)
        steps, _ = pad_packed_sequence(packed, batch_first=True)
        state = self.bridge(torch.cat([ends[-2], ends[-1]], 1)).tanh()
        state, cell = state, torch.zeros_like(state)
        word, written = torch.zeros_like(ids[:, 0]), []
        for _ in range(3):
            weight = torch.softmax(steps @ self.query(state).unsqueeze(2), 1)
            seen = (weight * steps).sum(1)
            state, cell = self.cell(torch.cat([self.words(word), seen], 1), (state, cell))
            written.append(self.out(torch.cat([state, seen], 1)))
            word = written[-1].argmax(1)
        return torch.stack(written, 1)


def test_a_translator() -> None:
    ids = torch.arange(12).view(3, 4) % 9
    worst, result = difference(lambda: Translator().eval(), (ids, LENGTHS), half, (ids, LENGTHS))
    assert worst < EXACT
    model = result.model
    assert (model.words.embedding_dim, model.encoder.hidden_size, model.cell.hidden_size) == (4, 3, 5)
    assert model.cell.input_size == 4 + 6


@pytest.mark.parametrize("value", [0.0, -1.0])
def test_what_stands_behind_the_end_of_a_sequence(value: float) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.recurrent, self.head = nn.Linear(5, 8), nn.GRU(8, 6), nn.Linear(6, 3)

        def forward(self, a: Tensor, b: Tensor) -> Tensor:
            packed, _ = self.recurrent(pack_sequence([self.into(a), self.into(b)]))
            y, _ = pad_packed_sequence(packed, padding_value=value)
            return self.head(y).amax(0)

    worst, result = difference(lambda: Net().eval(), (torch.zeros(4, 5), torch.zeros(2, 5)), half)
    assert worst < EXACT and result.model.recurrent.hidden_size == 3


def test_a_state_that_the_caller_gives_keeps_its_width() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.into, self.cell, self.head = nn.Linear(5, 8), nn.GRUCell(8, 6), nn.Linear(6, 3)

        def forward(self, x: Tensor, state: Tensor) -> Tensor:
            return self.head(self.cell(self.into(x), state))

    worst, result = difference(lambda: Net().eval(), (torch.zeros(3, 5), torch.zeros(3, 6)), half)
    assert worst < EXACT and (result.model.cell.input_size, result.model.cell.hidden_size) == (4, 6)


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (lambda: nn.LSTM(5, 7, proj_size=3, batch_first=True), 2 * 3 * (4 * 7 * (5 + 3) + 7 * 3)),
        (lambda: Step(nn.LSTMCell(5, 7)), 2 * 3 * 4 * 7 * (5 + 7)),
        (lambda: Step(nn.GRUCell(5, 7)), 2 * 3 * 3 * 7 * (5 + 7)),
    ],
)
def test_multiplications_by_hand(build: Callable[[], nn.Module], count: int) -> None:
    assert podar.trace(build().eval(), torch.zeros(2, 3, 5)).cost().macs == count


class Step(nn.Module):
    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell = cell

    def forward(self, x: Tensor) -> Any:
        return self.cell(x.flatten(0, 1))
