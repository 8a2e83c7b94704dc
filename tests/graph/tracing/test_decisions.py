"""Models that look at values: a cut is not refused because the pruned network would keep other rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import podar
from podar.graph.tracing.decisions import Decision, Told
from podar.graph.tracing.running import observe, replay
from tests.graph.oracle import halved

Way = Callable[["Net", Tensor, Tensor], Any]


class Net(nn.Module):
    """Tokens with features and scores; `way` goes on from there by what the scores say."""

    def __init__(self, way: Way) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 16), nn.Linear(16, 16)
        self.score, self.out = nn.Linear(16, 5), nn.Linear(16, 3)
        self.way = way

    def forward(self, x: Tensor) -> Any:
        y = self.first(x).relu()
        return self.way(self, self.second(y).relu(), self.score(y))


def of_each_expert(net: Net, y: Tensor, s: Tensor) -> Tensor:
    """A loop over experts, each with the tokens that chose it."""
    found = torch.zeros_like(y)
    for expert in range(s.shape[1]):
        (rows,) = torch.where(s.argmax(-1) == expert)
        if rows.numel():
            found[rows] += net.second(y[rows])
    return net.out(found)


def mixture(net: Net, y: Tensor, s: Tensor) -> Tensor:
    """Routing as in Mixtral: the best two experts of every token, found by a one-hot mask."""
    shares, chosen = s.softmax(-1).topk(2, dim=-1)
    mask = F.one_hot(chosen, s.shape[1]).permute(2, 1, 0)
    found = torch.zeros_like(y)
    for expert in mask.sum((-1, -2)).greater(0).nonzero():
        place, token = torch.where(mask[expert].squeeze(0))
        current = y[None, token].reshape(-1, y.shape[-1])
        found.index_add_(0, token, net.second(current) * shares[token, place, None])
    return net.out(found)


def sorted_by_expert(net: Net, y: Tensor, s: Tensor) -> Tensor:
    chosen = s.argmax(-1)
    order, counts = chosen.argsort(), torch.bincount(chosen, minlength=5).tolist()
    return net.out(torch.cat([net.second(rows) for rows in y[order].split(counts)]))


def switched(net: Net, y: Tensor, s: Tensor) -> Tensor:
    """Written into the rows of a mask, as Switch Transformers do."""
    found = y.clone()
    for expert in range(5):
        mine = s.argmax(-1) == expert
        found[mine] = net.second(y[mine])
    return net.out(found)


def until_small(net: Net, y: Tensor, s: Tensor) -> Tensor:
    steps = 0
    while s.abs().max() > 0.05 and steps < 6:
        y, s, steps = y + net.second(y) * 0.1, s * 0.5, steps + 1
    return net.out(y)


def by_numpy(net: Net, y: Tensor, s: Tensor) -> Tensor:
    rows = (s[:, 0] > 0).nonzero().flatten().numpy()
    return net.out(y[torch.from_numpy(rows)])


WAYS: dict[str, Way] = {
    "mask": lambda n, y, s: n.out(y[s[:, 0] > 0]),
    "mask of two axes": lambda n, y, s: n.out(y.view(4, 5, -1)[(s[:, 0] > 0).view(4, 5)]),
    "mask behind an axis": lambda n, y, s: n.out(y.t()[:, s[:, 0] > 0].t()),
    "mask and positions": lambda n, y, s: n.out(y.view(4, 5, -1)[s[:4, 0] > s[:4, 0].min(), 2]),
    "nonzero": lambda n, y, s: n.out(y[(s[:, 0] > 0).nonzero().squeeze(1)]),
    "nonzero as a tuple": lambda n, y, s: n.out(y[(s[:, 0] > 0).nonzero(as_tuple=True)]),
    "argwhere": lambda n, y, s: n.out(y.index_select(0, torch.argwhere(s[:, 0] > 0)[:, 0])),
    "where of a condition": lambda n, y, s: n.out(y[torch.where(s[:, 0] > 0)[0]]),
    "as many of the best as are good": lambda n, y, s: n.out(y[s[:, 0].topk(int((s[:, 0] > 0).sum())).indices]),
    "the good among the best": lambda n, y, s: n.out(y[s[:, 0].topk(10).indices[s[:, 0].topk(10).values > 0]]),
    "a branch": lambda n, y, s: n.out(y.tanh() if (s > 0.5).any() else y),
    "a branch by a sum": lambda n, y, s: n.out(y.tanh() if s.sum() > 0 else y),
    "a branch by equality": lambda n, y, s: n.out(y if torch.equal(s, s.relu()) else y.tanh()),
    "how many different": lambda n, y, s: n.out(y[: len(s.argmax(-1).unique())]),
    "how many runs": lambda n, y, s: n.out(y[: len(s.argmax(-1).unique_consecutive())]),
    "masked select": lambda n, y, s: (n.out(y), s.masked_select(s > 0)),
    "masked scatter": lambda n, y, s: (
        n.out(y) + y.new_zeros(20, 3).masked_scatter(s[:, :3] > 0, s[:, :3][s[:, :3] > 0])
    ),
    "a number of rows": lambda n, y, s: n.out(y[: (s[:, :1] > 0).sum(0).tolist()[0] + 1]),
    "rows by a list": lambda n, y, s: n.out(y[[int(i) for i in s.argmax(-1)]]),
    "rows as often as they say": lambda n, y, s: n.out(y.repeat_interleave(s.argmax(-1), 0)),
    "split at the good ones": lambda n, y, s: torch.cat(
        [n.out(part) for part in y.tensor_split((s[:, 0] > 0).nonzero().flatten())]
    ),
    "written by a mask": lambda n, y, s: n.out(torch.index_put(y, [s[:, 0] > 0], n.second(y)[s[:, 0] > 0])),
    "nothing written by a mask": lambda n, y, s: n.out(torch.index_put(y, [s[:, 0] > 0], y.new_zeros(()))),
    "rows one by one": lambda n, y, s: torch.stack([n.out(r) for r, k in zip(y, s) if k[0] > k.min()]),
    "by way of numpy": by_numpy,
    "how often each was chosen": lambda n, y, s: (
        n.out(y)
        + torch.zeros(5, dtype=torch.int64).scatter_add_(0, s.argmax(-1), torch.ones(20, dtype=torch.int64)).max()
    ),
    "experts": of_each_expert,
    "mixture": mixture,
    "sorted by expert": sorted_by_expert,
    "switched": switched,
    "until small": until_small,
}


@pytest.mark.parametrize("name", WAYS)
def test_what_is_cut_computes_what_the_mask_computes(name: str) -> None:
    for seed in range(3):

        def build(seed: int = seed) -> nn.Module:
            torch.manual_seed(seed)
            return Net(WAYS[name])

        worst, result = halved(build, torch.rand(20, 6) - 0.5)
        assert worst <= 1e-6
        assert result.model.second.out_features == 8


@pytest.mark.slow
@pytest.mark.parametrize("name", WAYS)
def test_no_cut_is_refused_at_any_seed(name: str) -> None:
    for seed in range(30):
        torch.manual_seed(seed)
        model, x = Net(WAYS[name]).eval(), torch.randn(20, 6)
        podar.prune(model, x, "channels=0.5", scope="local")
        assert model.second.out_features == 8
        model(torch.randn(20, 6))


@pytest.mark.parametrize(
    ("way", "reason"),
    [
        (lambda n, y, s: n.out(y / (y.mean().item() + 9)), "statistic"),
        (lambda n, y, s: n.out(y * float(y.square().mean(1)[0])), "statistic"),
        (lambda n, y, s: n.out(y + max(y[0].tolist())), "read as numbers at tolist"),
        (lambda n, y, s: n.out(y + y.numpy().max()), "read as numbers at numpy"),
        (lambda n, y, s: n.out(y if torch.equal(y, y.relu()) else y.tanh()), "read as numbers at equal"),
    ],
)
def test_channels_that_show_in_numbers_stay(way: Way, reason: str) -> None:
    model, x = Net(way).eval(), torch.randn(20, 6)
    assert reason in {(n, d): why for n, d, why in podar.trace(model, x).frozen}["second.weight", 0]


def test_a_mask_with_one_value_needs_no_values() -> None:
    assert not observe(Net(WAYS["nothing written by a mask"]).eval(), torch.randn(20, 6)).real


def test_an_operator_of_somebody_else_gives_what_it_gave() -> None:
    library = torch.library.Library("podar_test_decisions", "DEF")
    library.define("keep(Tensor scores) -> Tensor")
    library.impl("keep", lambda s: (s > 0).nonzero().flatten(), "CompositeExplicitAutograd")
    keep: Any = torch.ops.podar_test_decisions.keep
    for seed in range(10):
        torch.manual_seed(seed)
        model, x = Net(lambda n, y, s: n.out(y[keep(s[:, 0])])).eval(), torch.randn(20, 6)
        podar.prune(model, x, "channels=0.5", scope="local")
        assert model.second.out_features == 8


def test_later_runs_are_told_what_the_dense_one_read() -> None:
    """Other numbers in the network, and yet the same rows."""
    torch.manual_seed(3)
    model, x = Net(WAYS["mask"]).eval(), torch.randn(20, 6)
    record = observe(model, x)
    with torch.no_grad():
        model.score.weight.neg_()
    for real in (False, True):
        assert [s.shapes for s in replay(model, x, record, real)] == [s.shapes for s in record.steps]


def test_what_is_told_is_a_copy() -> None:
    """A model that writes into what it read must not change what later runs are told."""

    def way(net: Net, y: Tensor, s: Tensor) -> Tensor:
        rows = (s[:, 0] > 0).nonzero().flatten()
        found = net.out(y[rows])
        rows.zero_()
        return found

    model, x = Net(way).eval(), torch.randn(20, 6)
    record = observe(model, x)
    for _ in range(2):
        replay(model, x, record)
    assert record.decisions[0].value.any()


def test_decisions_are_told_in_their_order_each_module_for_itself() -> None:
    modules = {1: "a", 2: "b", 3: "a"}
    made = [Decision("nonzero", m, ((4,),), torch.tensor([[k]])) for k, m in modules.items()]
    made.append(Decision("item", "a", ((2,),), 7))
    told = Told(made)
    b, first, second = (told.next("nonzero", m, ((4,),)) for m in "baa")
    assert b is made[1] and first is made[0] and second is made[2]
    assert told.next("nonzero", "a", ((4,),)) is None
    assert told.next("item", "a", ((1,),)) is made[3]  # a number means the same whatever the shape
    assert Told(made).next("nonzero", "a", ((3,),)) is None  # positions do not
