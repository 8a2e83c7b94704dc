"""Graph networks of PyTorch Geometric lose hidden units, whatever its layers gather and scatter by."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.graph.oracle import halved

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # it compiles scripts as it is imported
    torch_geometric: Any = pytest.importorskip("torch_geometric", exc_type=ImportError)
    gnn: Any = pytest.importorskip("torch_geometric.nn", exc_type=ImportError)

torch_geometric.backend.use_segment_matmul = False
"""Its heuristic computes with the widths of relational layers, which therefore would stay."""

_draw = torch.Generator().manual_seed(0)
EDGES = torch.randint(0, 12, (2, 40), generator=_draw)
KINDS = torch.randint(0, 3, (40,), generator=_draw)
GRAPHS = torch.tensor([0] * 5 + [1] * 7)


class Net(nn.Module):
    """Two layers over one graph, with what stands between them, and a pooling at the end."""

    def __init__(self, first: nn.Module, second: nn.Module, between: nn.Module | None = None, pool: Any = None) -> None:
        super().__init__()
        self.first, self.second, self.between, self.pool = first, second, between or nn.Identity(), pool

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x = self.second(self.between(self.first(x, edges).relu()), edges)
        return x if self.pool is None else self.pool(x, GRAPHS)


class OfKinds(Net):
    """Layers that are told the kind of each edge."""

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.second(self.first(x, edges, KINDS).relu(), edges, KINDS)


class Best(nn.Module):
    """Nodes that score well stay: how many edges do depends on values."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.pool, self.second = gnn.GCNConv(6, 16), gnn.TopKPooling(16), gnn.GCNConv(16, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        x, edges, _, graphs, *_ = self.pool(self.first(x, edges).relu(), edges, None, GRAPHS)
        return gnn.global_mean_pool(self.second(x, edges), graphs)


def gcn(**more: Any) -> Net:
    return Net(gnn.GCNConv(6, 16), gnn.GCNConv(16, 3), **more)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "GCN": gcn,
    "GCN, pooled by mean": lambda: gcn(pool=gnn.global_mean_pool),
    "GCN, pooled by sum": lambda: gcn(pool=gnn.global_add_pool),
    "GCN, pooled by maximum": lambda: gcn(pool=gnn.global_max_pool),
    "GCN with batch norm": lambda: gcn(between=gnn.BatchNorm(16)),
    "GCN with layer norm": lambda: gcn(between=gnn.LayerNorm(16, mode="node")),
    "GCN with graph norm": lambda: gcn(between=gnn.GraphNorm(16)),
    "GAT": lambda: Net(gnn.GATConv(6, 8, heads=4), gnn.GATConv(32, 3, heads=2, concat=False)),
    "GAT, heads averaged": lambda: Net(gnn.GATConv(6, 16, heads=4, concat=False), gnn.GATConv(16, 3)),
    "GATv2": lambda: Net(gnn.GATv2Conv(6, 8, heads=4), gnn.GATv2Conv(32, 3, heads=2, concat=False)),
    "GATv2, heads averaged": lambda: Net(gnn.GATv2Conv(6, 16, heads=4, concat=False), gnn.GATv2Conv(16, 3)),
    "SAGE": lambda: Net(gnn.SAGEConv(6, 16), gnn.SAGEConv(16, 3)),
    "SAGE by maximum": lambda: Net(gnn.SAGEConv(6, 16, aggr="max"), gnn.SAGEConv(16, 3, aggr="max")),
    "SAGE, projected": lambda: Net(gnn.SAGEConv(6, 16, project=True), gnn.SAGEConv(16, 3, project=True)),
    "Transformer": lambda: Net(gnn.TransformerConv(6, 8, heads=4), gnn.TransformerConv(32, 3, heads=2, concat=False)),
    "Transformer with a gate": lambda: Net(
        gnn.TransformerConv(6, 8, heads=4, beta=True), gnn.TransformerConv(32, 3, concat=False)
    ),
    "GIN": lambda: Net(
        gnn.GINConv(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16))), gnn.GINConv(nn.Linear(16, 3))
    ),
    "Chebyshev": lambda: Net(gnn.ChebConv(6, 16, K=3), gnn.ChebConv(16, 3, K=3)),
    "relations": lambda: OfKinds(gnn.RGCNConv(6, 16, 3), gnn.RGCNConv(16, 3, 3)),
    "relations, fast": lambda: OfKinds(gnn.FastRGCNConv(6, 16, 3), gnn.FastRGCNConv(16, 3, 3)),
    "edges": lambda: Net(gnn.EdgeConv(nn.Linear(12, 16)), gnn.EdgeConv(nn.Linear(32, 3))),
    "gates": lambda: Net(gnn.ResGatedGraphConv(6, 16), gnn.ResGatedGraphConv(16, 3)),
    "three layers, joined": lambda: gnn.GCN(6, 16, 3, 3, jk="cat"),
    "three layers, the largest": lambda: gnn.GCN(6, 16, 3, 3, jk="max"),
    "three layers, weighed by an LSTM": lambda: gnn.GCN(6, 16, 3, 3, jk="lstm"),
    "three layers of SAGE with batch norm": lambda: gnn.GraphSAGE(6, 16, 3, 3, norm="batch_norm"),
    "the best nodes": Best,
}


@pytest.mark.parametrize("name", NETWORKS)
def test_hidden_units_go_and_surgery_computes_what_the_mask_computes(name: str) -> None:
    def build() -> nn.Module:
        torch.manual_seed(0)
        return NETWORKS[name]()

    before = sum(p.numel() for p in build().parameters())
    worst, result = halved(build, (torch.randn(12, 6), EDGES))
    assert worst <= 1e-6
    assert sum(p.numel() for p in result.model.parameters()) <= 0.6 * before
