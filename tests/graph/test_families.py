"""Which units are interchangeable, and which families lose in step."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from podar.graph import Graph
from podar.graph.families import DRAWS, Families

IMAGE = torch.randn(1, 3, 8, 8)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 6
        self.embed, self.qkv, self.out = nn.Linear(3, 24), nn.Linear(24, 72), nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x.flatten(2).transpose(1, 2))
        q, k, v = self.qkv(x).reshape(1, -1, 3, self.heads, self.width).permute(2, 0, 3, 1, 4).unbind(0)
        y = functional.scaled_dot_product_attention(q, k, v)
        return self.out(y.transpose(1, 2).reshape(1, -1, self.heads * self.width))


class Halves(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 12, 1, bias=False), nn.Conv2d(6, 5, 1), nn.Conv2d(11, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.a(x).chunk(2, 1)
        return self.c(torch.cat([left, self.b(right)], 1))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two, self.head = (nn.Conv2d(a, b, 1) for a, b in ((3, 8), (8, 16), (16, 8), (8, 2)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(x + self.two(functional.relu(self.one(x))))


def sizes(graph: Graph) -> dict[str, int]:
    return {g.name: g.size for g in graph.groups}


def test_a_residual_width_is_one_family_however_many_layers_share_it() -> None:
    graph = podar.trace(Residual(), IMAGE)
    assert sizes(graph) == {"stem": 8, "one": 16}
    stem = next(g for g in graph.groups if g.name == "stem")
    assert {("stem.weight", 0), ("one.weight", 1), ("two.weight", 0), ("head.weight", 1)} <= set(stem.members)


def test_heads_go_and_the_dimensions_within_stay_in_their_place() -> None:
    graph = podar.trace(Attention(), IMAGE)
    heads = [g for g in graph.groups if g.kind == "heads"]
    inner = [g for g in graph.groups if g.kind == "inner"]
    assert [g.size for g in heads] == [4] and not heads[0].held
    assert inner and all(g.held for g in inner)
    assert {k for g in inner for k in g.families} == graph.ties.held(reason=graph.reason)
    # Where one head is asked to stay, the dimensions within go instead, q, k and v in step.
    chosen = {k for g in inner for k in g.families}
    clusters = graph.clustered(chosen).clusters
    assert any(set(c.families) == chosen for c in clusters)
    assert not graph.ties.held(chosen, graph.reason) & chosen


def test_halves_of_a_chunk_lose_equally_many_and_may_lose_different_ones() -> None:
    model = Halves()
    graph = podar.trace(model, IMAGE)
    left, right = (next(g for g in graph.groups if g.name == name) for name in ("a[0:6]", "a[6:12]"))
    assert left.size == right.size == left.steps == right.steps == 6
    assert right.name in left.tied and left.name in right.tied
    with torch.no_grad():  # the weakest of the left half are 0 … 2, of the right half 9 … 11
        model.a.weight[[0, 1, 2, 9, 10, 11]] *= 1e-3
        model.c.weight[:, :3] *= 1e-3
        model.b.weight[:, 3:] *= 1e-3
    result = podar.prune(model, IMAGE, "channels=0.5", scope="local")
    assert result.removed["a.weight"][0].tolist() == [0, 1, 2, 9, 10, 11]


def test_families_without_a_common_step_are_frozen_with_the_reason() -> None:
    graph = podar.trace(nn.Sequential(nn.Conv2d(3, 1, 1), nn.Conv2d(1, 2, 1)), IMAGE)
    assert not graph.groups


def always_nothing(self: Families, n: int) -> np.ndarray:
    return np.zeros(n, dtype=np.uint64)


@pytest.mark.parametrize("model", [Residual(), Halves(), Attention()])
def test_a_collision_of_fingerprints_is_noticed_and_other_numbers_are_drawn(
    model: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = str(podar.trace(model, IMAGE).groups)
    draw, drawn = Families._draw, list[int]()

    def first_nothing(self: Families, n: int) -> np.ndarray:
        drawn.append(n)
        return always_nothing(self, n) if len(drawn) <= 2 else draw(self, n)  # 2: on axes, and in their parts

    monkeypatch.setattr(Families, "_draw", first_nothing)
    assert str(podar.trace(model, IMAGE).groups) == expected
    assert len(drawn) == 4  # the first two collided


def test_fingerprints_that_go_on_colliding_are_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Families, "_draw", always_nothing)
    with pytest.raises(RuntimeError, match=f"{DRAWS} draws"):
        podar.trace(Residual(), IMAGE)


def test_a_question_for_other_clusters_changes_nothing_of_the_graph() -> None:
    graph = podar.trace(Attention(), IMAGE)
    before = str(graph.groups), graph.frozen, dict(graph.reason), graph.clusters
    inner = {k for g in graph.groups if g.kind == "inner" for k in g.families}
    graph.clustered(inner, dict.fromkeys(range(len(graph.families)), "asked to"))
    kept = graph.with_frozen({graph.groups[0].families[0]: "asked to"})
    assert any(why == "asked to" for _, _, why in kept.frozen)
    assert (str(graph.groups), graph.frozen, dict(graph.reason), graph.clusters) == before
