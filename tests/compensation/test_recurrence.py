"""Recurrent layers: all steps read a weight at once, a layer gives what torch gives, and it is solved."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import podar
from podar.compensation import worth
from podar.compensation.readings import Parameters, Reading, Watch
from podar.criteria.unit_sums import unit_scores
from podar.model.tensors import tensors_in


def inputs(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def layer(kind: str, **options: object) -> nn.RNNBase:
    torch.manual_seed(0)
    return getattr(nn, kind)(4, 6, **options).eval()


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
@pytest.mark.parametrize(
    "options",
    [{}, {"batch_first": True}, {"num_layers": 2, "bidirectional": True}, {"bias": False, "num_layers": 3}],
    ids=["plain", "batch first", "both directions", "no bias"],
)
@pytest.mark.parametrize("form", ["batch", "one sequence", "packed"])
def test_a_layer_gives_what_torch_gives_and_each_weight_is_read_once(kind: str, options: dict, form: str) -> None:
    model = layer(kind, **options)
    x = inputs(5, 4) if form == "one sequence" else inputs(5, 5, 4)
    given, lengths = x, torch.tensor([2, 5, 3, 3, 1])
    if form == "packed":
        given = nn.utils.rnn.pack_padded_sequence(x, lengths, model.batch_first, enforce_sorted=False)
    with torch.no_grad():
        wanted, met = model(given), list[Reading]()
        with Watch(Parameters(model), met.append):
            got = model(given)
    for a, b in zip(tensors_in(got), tensors_in(wanted)):
        torch.testing.assert_close(a, b)
    weights = sorted(name for name, p in model.named_parameters() if p.dim() == 2)
    assert sorted(reading.name for reading in met) == weights
    # The state weights read what the layer handed out one step before: the gates follow.
    rows = sum(lengths.tolist()) if form == "packed" else x.numel() // 4
    assert all(reading.x.numel() // reading.x.shape[-1] == rows for reading in met)


def test_state_weights_read_the_states_of_the_step_before() -> None:
    model = layer("RNN", bidirectional=True, batch_first=True)
    x, met = inputs(3, 5, 4), dict[str, Reading]()
    with torch.no_grad(), Watch(Parameters(model), lambda r: met.setdefault(r.name, r)):  # pyright: ignore[reportArgumentType]
        y, _ = model(x)
        for end, half in (("", y[..., :6]), ("_reverse", y[..., 6:])):
            back = met[f"weight_hh_l0{end}"]
            assert back.beside is not None
            bias = model.get_parameter(f"bias_ih_l0{end}") + model.get_parameter(f"bias_hh_l0{end}")
            torch.testing.assert_close((back.x @ back.weight.t() + back.beside + bias).tanh(), half)


class Reader(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(4, 16)
        self.rnn = getattr(nn, kind)(16, 24, num_layers=2, batch_first=True)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.rnn(torch.relu(self.embed(x)))[0][:, -1])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_a_cut_recurrent_network_is_solved_and_comes_nearer(kind: str) -> None:
    dense, x, new = Reader(kind).eval(), inputs(256, 12, 4), inputs(512, 12, 4)[256:]
    plain, solved = copy.deepcopy(dense), copy.deepcopy(dense)
    graph = podar.trace(dense, x[:1])
    assert not worth(graph, dense, x, unit_scores(graph)).left
    podar.prune(plain, x[:1], "params=0.5")
    podar.prune(solved, x[:1], "params=0.5")
    found = podar.compensate(solved, dense, x)
    assert {c.name for c in found.consumers} == {n for n, p in dense.named_parameters() if p.dim() == 2}
    with torch.no_grad():
        off = [float((m(new) - dense(new)).square().mean()) for m in (plain, solved)]
    assert off[1] < 0.5 * off[0], off


class Cell(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cell, self.out = nn.Linear(4, 16), nn.GRUCell(16, 24), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        state = x.new_zeros(len(x), 24)
        for step in torch.relu(self.embed(x)).unbind(1):
            state = self.cell(step, state)
        return self.out(state)


def test_a_cell_that_reads_its_weights_at_every_step_comes_nearer() -> None:
    dense, x, new = Cell().eval(), inputs(256, 20, 4), inputs(512, 20, 4)[256:]
    plain, solved = copy.deepcopy(dense), copy.deepcopy(dense)
    podar.prune(plain, x[:1], ratios={"embed": 0.4})
    podar.prune(solved, x[:1], ratios={"embed": 0.4})
    podar.compensate(solved, dense, x)
    with torch.no_grad():
        off = [float((m(new) - dense(new)).square().mean()) for m in (plain, solved)]
    assert off[1] < 0.5 * off[0], off
