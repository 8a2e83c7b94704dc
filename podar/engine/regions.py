"""Regions: operators of an exported graph that lie together and run as one program of the engine."""

from __future__ import annotations

import time
from operator import getitem
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase

from podar.engine import torch_operators as torch_operators  # their rules register themselves
from podar.engine.lowering import Lowering, Unsupported, reason_against, shape_of


def reasons_against(graph: fx.GraphModule, batch: int) -> dict[fx.Node, str]:
    """The operators that stay in torch, each with the reason."""
    found = {node: reason_against(graph, node, batch) for node in graph.graph.nodes if node.op == "call_function"}
    return {node: why for node, why in found.items() if why is not None}


def _regions(graph: fx.GraphModule, host: set[fx.Node]) -> list[list[fx.Node]]:
    class Support(OperatorSupportBase):
        def is_node_supported(self, submodules: Any, node: fx.Node) -> bool:
            return node.op == "call_function" and node not in host

    found = CapabilityBasedPartitioner(graph, Support(), allows_single_node_partition=True).propose_partitions()
    place = {node: i for i, node in enumerate(graph.graph.nodes)}
    regions = [sorted(partition.nodes, key=place.__getitem__) for partition in found]
    worthwhile = [r for r in regions if any(_has_weight(n) for n in r)]
    return sorted(worthwhile, key=lambda r: place[r[0]])


def _has_weight(node: fx.Node) -> bool:
    return any(name in str(node.target) for name in ("conv", "linear"))


def lowered(graph: fx.GraphModule, reasons: dict[fx.Node, str]) -> list[tuple[list[fx.Node], Lowering]]:
    """Each region with its network. An operator that does not fit in between its neighbours stays in torch."""
    while True:
        found: list[tuple[list[fx.Node], Lowering]] = []
        for nodes in _regions(graph, set(reasons)):
            lowering = Lowering(graph)
            node = nodes[0]
            try:
                for node in nodes:
                    lowering.add(node)
                for node in _leaving(nodes):
                    lowering.finish(node)
            except (Unsupported, ValueError) as error:
                reasons[node] = str(error).rstrip(".")
                break
            found.append((nodes, lowering))
        else:
            return found


def _leaving(nodes: list[fx.Node]) -> list[fx.Node]:
    inside = set(nodes)
    return [n for n in nodes if any(user not in inside for user in n.users)]


def put_in(
    graph: fx.GraphModule,
    inputs: list[fx.Node],
    nodes: list[fx.Node],
    program: Tensor,
    number: int,
    moved: dict[fx.Node, fx.Node],
) -> None:
    """Replace a region by one call of its program. `moved` notes for each node what now gives its value."""
    name = f"_program_{number}"
    graph.register_buffer(name, program)
    leaving = _leaving(nodes)
    text = ";".join(",".join(str(n) for n in shape_of(node)[1:]) for node in leaving)
    end = next(n for n in reversed(graph.graph.nodes) if n.op == "output")
    with graph.graph.inserting_before(end):
        held = graph.graph.get_attr(name)
        call = graph.graph.call_function(torch.ops.podar.run_sparse.default, (held, inputs, text))
        call.meta["val"] = [node.meta["val"] for node in leaving]
        for i, node in enumerate(leaving):
            item = graph.graph.call_function(getitem, (call, i))
            item.meta = dict(node.meta)
            moved[node] = item  # a later region may read it
            node.replace_all_uses_with(item, delete_user_cb=lambda user: user not in nodes)
    for node in reversed(nodes):
        graph.graph.erase_node(node)


class Recorder(fx.Interpreter):
    """Runs the graph once for the values and some times for the fastest time of every node."""

    def __init__(self, graph: fx.GraphModule) -> None:
        super().__init__(graph, garbage_collect_values=False)
        self.values: dict[fx.Node, Any] = {}
        self.milliseconds: dict[fx.Node, float] = {}

    def run_node(self, n: fx.Node) -> Any:
        start = time.perf_counter()
        value = super().run_node(n)
        took = (time.perf_counter() - start) * 1e3
        self.values[n] = value
        self.milliseconds[n] = min(took, self.milliseconds.get(n, took))
        return value


def recorded(graph: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Recorder:
    """A recorder that has run the graph five times on the example inputs."""
    flat = pytree.tree_leaves((args, kwargs))
    recorder = Recorder(graph)
    for _ in range(5):
        recorder.run(*flat, enable_io_processing=False)
    return recorder
