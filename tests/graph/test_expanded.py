"""An axis that was expanded follows what it was expanded to: messages gathered, added and averaged along a graph."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import podar
from tests.graph.oracle import halved

Move = Callable[[Tensor, Tensor], Tensor]

TO = torch.randint(0, 7, (20,), generator=torch.Generator().manual_seed(0))
"""For each of 20 rows the place among 7 that it goes to."""


class Net(nn.Module):
    def __init__(self, move: Move) -> None:
        super().__init__()
        self.first, self.last, self.move = nn.Linear(6, 16), nn.Linear(16, 3), move

    def forward(self, x: Tensor, to: Tensor) -> Tensor:
        return self.last(self.move(self.first(x).relu(), to))


def added(index: Move) -> Move:
    """Rows added up where the index says."""
    return lambda y, to: y.new_zeros(7, y.shape[1]).scatter_add(0, index(y, to), y)


INDICES: dict[str, Move] = {
    "expand_as": lambda y, to: to[:, None].expand_as(y),
    "expand_as, and copied": lambda y, to: to[:, None].expand_as(y).contiguous(),
    "expand_as, of the transposed": lambda y, to: to.expand_as(y.t()).t(),
    "expand to a size": lambda y, to: to[:, None].expand(-1, y.size(1)),
    "expand to a shape": lambda y, to: to[:, None].expand(y.shape),
    "expand to sizes": lambda y, to: to[:, None].expand(*y.size()),
    "expand to the sizes of another": lambda y, to: to[:, None].expand(torch.empty_like(y).shape),
    "broadcast_to": lambda y, to: torch.broadcast_to(to[:, None], y.shape),
    "the method broadcast_to": lambda y, to: to.view(-1, 1).broadcast_to(size=y.shape),
    "broadcast_tensors": lambda y, to: torch.broadcast_tensors(to[:, None], y)[0],
    "repeat": lambda y, to: to[:, None].repeat(1, y.shape[1]),
    "tile": lambda y, to: to[:, None].tile((1, y.shape[1])),
    "tile, of fewer axes": lambda y, to: to[:, None].tile(y.shape[1]),
    "repeat_interleave": lambda y, to: to[:, None].repeat_interleave(y.shape[1], 1),
    "repeat_interleave by name": lambda y, to: torch.repeat_interleave(to[:, None], repeats=y.shape[1], dim=1),
    "repeat_interleave and view": lambda y, to: to.repeat_interleave(y.shape[1]).view(-1, y.shape[1]),
    "repeat_interleave and view_as": lambda y, to: to.repeat_interleave(y.shape[1]).view_as(y),
    "repeat_interleave and reshape_as": lambda y, to: to.repeat_interleave(y.size(-1)).reshape_as(y),
    "repeated as a whole": lambda y, to: to.repeat(y.shape[1]).view(y.shape[1], -1).t(),
    "times ones": lambda y, to: to[:, None] * torch.ones(1, y.shape[1], dtype=torch.int64),
    "times ones like it": lambda y, to: to[:, None] * torch.ones_like(y, dtype=torch.int64),
}

MOVES: dict[str, Move] = {
    **{f"scatter_add by {name}": added(index) for name, index in INDICES.items()},
    "gather": lambda y, to: y.gather(0, to[:, None].expand_as(y)),
    "gather a few": lambda y, to: y.gather(0, to[:5, None].expand(5, y.shape[1])),
    "gather within a batch": lambda y, to: (
        y.view(4, 5, -1).gather(1, (to.view(4, 5) % 5).unsqueeze(-1).expand(-1, -1, y.shape[-1])).flatten(0, 1)
    ),
    "take_along_dim": lambda y, to: torch.take_along_dim(y, to[:, None], 0),
    "take_along_dim by name": lambda y, to: y.take_along_dim(indices=to[:, None], dim=0),
    "heads": lambda y, to: (
        y.new_zeros(7, 4, y.shape[1] // 4)
        .scatter_add(0, to[:, None, None].expand_as(y.view(20, 4, -1)), y.view(20, 4, -1))
        .flatten(1)
    ),
    "largest": lambda y, to: y.new_zeros(7, y.shape[1]).scatter_reduce(0, to[:, None].expand_as(y), y, "amax"),
    "mean": lambda y, to: y.new_zeros(7, y.shape[1]).scatter_reduce(0, to[:, None].expand_as(y), y, "mean"),
    "mean by counting": lambda y, to: (
        added(INDICES["expand_as"])(y, to) / added(INDICES["expand_as"])(torch.ones_like(y), to).clamp(min=1)
    ),
    "mean by bincount": lambda y, to: (
        y.new_zeros(7, y.shape[1]).index_add(0, to, y) / to.bincount(minlength=7).clamp(min=1)[:, None]
    ),
    "mean of segments": lambda y, to: torch.segment_reduce(y, "mean", lengths=torch.tensor([5, 7, 8]), axis=0),
    "sums of bags": lambda y, to: F.embedding_bag(to, y, torch.tensor([0, 5, 9]), mode="sum"),
    "rows of a table": lambda y, to: F.embedding(to, y),
    "index_select": lambda y, to: y.index_select(0, to),
    "index_put": lambda y, to: y.new_zeros(7, y.shape[1]).index_put((to,), y, accumulate=True),
    "a mask": lambda y, to: torch.where((to > 3)[:, None].expand_as(y), y, 0.0),
    "weights": lambda y, to: y * to.to(y.dtype)[:, None].expand_as(y),
    "one hot": lambda y, to: F.one_hot(to, 7).t().to(y.dtype) @ y,
    "a sparse matrix": lambda y, to: sparse(to, y) @ y,
    "a sparse matrix in rows": lambda y, to: sparse(to, y).to_sparse_csr() @ y,
    "sparse.mm": lambda y, to: torch.sparse.mm(sparse(to, y), y),
}


def sparse(to: Tensor, y: Tensor) -> Tensor:
    places = torch.stack([to, torch.arange(20)])
    return torch.sparse_coo_tensor(places, torch.ones(20, dtype=y.dtype), (7, 20), check_invariants=True)


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("name", MOVES)
def test_channels_go_and_surgery_computes_what_the_mask_computes(name: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return Net(MOVES[name])

    worst, result = halved(build, (torch.zeros(20, 6), TO))
    assert worst <= 1e-6
    assert result.model.first.out_features == 8


def test_a_width_that_is_a_number_of_the_models_own_stays_with_its_reason() -> None:
    graph = podar.trace(Net(added(lambda y, to: to[:, None].expand(-1, 16))), (torch.zeros(20, 6), TO))
    assert "scatter_add" in {(n, d): why for n, d, why in graph.frozen}["first.weight", 0]


@pytest.mark.parametrize(
    "read",
    [
        lambda y, to: torch.rand(7, 20).to(y.dtype) @ y,
        lambda y, to: F.embedding(to, y),
        lambda y, to: F.embedding_bag(to, y, torch.tensor([0, 5])),
    ],
)
def test_what_is_not_zero_is_not_taken_for_zero(read: Move) -> None:
    """σ(0) = ½: a sum over channels would miss those that went."""

    class Sums(Net):
        def forward(self, x: Tensor, to: Tensor) -> Tensor:
            return read(self.first(x).sigmoid(), to).sum(-1)

    frozen = podar.trace(Sums(lambda y, to: y), (torch.zeros(20, 6), TO)).frozen
    assert "statistic" in {(n, d): why for n, d, why in frozen}["first.weight", 0]


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("form", ["coo", "csr"])
def test_a_sparse_buffer_is_left_as_it_was(form: str) -> None:
    class Held(Net):
        def __init__(self) -> None:
            super().__init__(lambda y, to: y)
            matrix = sparse(TO, torch.ones(1)).coalesce()
            self.register_buffer("matrix", matrix if form == "coo" else matrix.to_sparse_csr())

        def forward(self, x: Tensor, to: Tensor) -> Tensor:
            return self.last(self.get_buffer("matrix") @ self.first(x).relu())

    model = Held().eval()
    before = model.get_buffer("matrix").to_dense()
    podar.prune(model, (torch.randn(20, 6), TO), "channels=0.5", scope="local")
    assert model.first.out_features == 8 and torch.equal(model.get_buffer("matrix").to_dense(), before)
    assert model(torch.randn(20, 6), TO).shape == (7, 3)
