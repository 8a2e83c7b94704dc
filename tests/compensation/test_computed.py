"""Which parameters read activations through weights that are computed from them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

import podar
from podar.compensation import worth
from podar.compensation.flow import follow
from podar.compensation.readings import Parameters
from podar.criteria.unit_sums import unit_scores

X = torch.randn(32, 5, 8, generator=torch.Generator().manual_seed(1))


class Biased(nn.Module):
    """Attention whose logits a table of two axes is added to, behind a token that is put in front."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.token = nn.Parameter(torch.randn(1, 1, 16))
        self.table = nn.Parameter(torch.randn(36, 4))
        self.embed, self.qkv, self.out = nn.Linear(8, 16), nn.Linear(16, 48), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), self.embed(x)], 1)
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
        logits = q @ k.transpose(-1, -2) + self.table[torch.arange(36)].t().reshape(1, 4, 6, 6)
        return self.out((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))


class Computed(nn.Module):
    """A linear layer whose weight is scaled first, and another that is read by halves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.scaled, self.halves = nn.Linear(8, 16), nn.Linear(16, 12), nn.Linear(12, 6)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.scaled.weight / self.scaled.weight.norm(dim=1, keepdim=True)
        x = nn.functional.linear(self.embed(x), weight)
        one, two = self.halves.weight.chunk(2)
        return x @ one.t() + x @ two.t()


def computed(model: nn.Module) -> set[str]:
    return follow(model, lambda m: m(X), Parameters(model)).computed


def test_what_is_added_or_looked_up_reads_nothing() -> None:
    model = Biased().eval()
    assert computed(model) == set()
    graph = podar.trace(model, X[:1])
    assert not worth(graph, model, X, unit_scores(graph)).left
    result = podar.prune(model, X[:1], "params=0.6", data=X)
    assert result.compensation is not None
    assert {c.name for c in result.compensation.consumers} == {"embed.weight", "qkv.weight", "out.weight"}


def test_what_is_computed_or_read_in_part_is_named() -> None:
    model = Computed().eval()
    assert computed(model) == {"scaled.weight", "halves.weight"}
    graph = podar.trace(model, X[:1])
    left = worth(graph, model, X, unit_scores(graph)).left
    assert "scaled.weight" in left["embed"]


class Tied(nn.Module):
    """A small language model whose head is its embedding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.up, self.down = nn.Embedding(30, 16), nn.Linear(16, 32), nn.Linear(32, 16)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        x = x + self.down(torch.relu(self.up(x)))
        return x @ self.embed.weight.t()


def test_a_head_that_is_an_embedding_stays_as_it_is() -> None:
    dense = Tied().eval()
    tokens = torch.randint(0, 30, (64, 12), generator=torch.Generator().manual_seed(1))
    model = copy.deepcopy(dense)
    result = podar.prune(model, tokens[:1], "params=0.7", data=tokens)
    assert result.compensation is not None and not result.compensation.failed
    left = {c.name: c.left for c in result.compensation.consumers}
    assert "tied" in str(left["embed.weight"]) and set(left) == {"embed.weight", "up.weight", "down.weight"}
    kept = model.get_parameter("embed.weight")
    assert all(any(torch.equal(column, own) for own in dense.embed.weight.T) for column in kept.T)
