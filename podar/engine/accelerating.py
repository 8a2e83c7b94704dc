"""`podar.accelerate`: a model's sparse regions move into the engine, the rest stays in torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from operator import getitem
from pathlib import Path
from typing import Any, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.fx.passes.infra.partitioner import CapabilityBasedPartitioner
from torch.fx.passes.operator_support import OperatorSupportBase
from torch.fx.passes.tools_common import legalize_graph

from podar.engine.calling import as_arguments, calling, check_on_cpu
from podar.engine.choosing import Decision, choose
from podar.engine.folding import exported
from podar.engine.host import by_kind, fastest
from podar.engine.lowering import Lowering, Unsupported, reason_against, shape_of
from podar.engine.native import check_native
from podar.engine.onnx_accelerating import AcceleratedFile, accelerate_file
from podar.engine.operator import open_program, run_program
from podar.errors import PodarError, UsageError
from podar.files import write_atomic
from podar.model.tensors import tensors_in


@dataclass(frozen=True)
class Region:
    """Operators that lie together and run as one program.

    - `layers`: what was decided for each convolution and linear layer.
    - `engine_ms`, `torch_ms`: a run of the region in each; NaN where it was not measured.
    - `kept`: whether the engine runs it.
    """

    operators: int
    layers: tuple[Decision, ...]
    engine_ms: float
    torch_ms: float
    kept: bool


@dataclass(frozen=True)
class Acceleration:
    """What `podar.accelerate` did: the regions, and the operators that stay in torch with the reason for each kind."""

    regions: tuple[Region, ...]
    host: Mapping[str, tuple[int, str]]
    level: str

    def __str__(self) -> str:
        lines = [f"sparse engine ({self.level}):"]
        for number, region in enumerate(self.regions):
            sparse = sum(layer.sparse for layer in region.layers)
            where = "engine" if region.kept else "torch (the engine would be slower)"
            lines.append(
                f"  region {number}: {region.operators} operators, {sparse} sparse and "
                f"{len(region.layers) - sparse} dense layers, engine {region.engine_ms:.2f} ms, "
                f"torch {region.torch_ms:.2f} ms → {where}"
            )
            lines += [f"    {layer}" for layer in region.layers]
        lines += [f"  in torch: {count} × {name}: {why}" for name, (count, why) in self.host.items()]
        return "\n".join(lines)


class Accelerated(nn.Module):
    """A model whose sparse regions run in the engine. It takes and returns what the model did, in eval mode.

    `report` says what was decided. Inputs must have the example's shapes and types; the batch may differ where one
    program runs the whole model.
    """

    def __init__(
        self,
        graph: fx.GraphModule,
        report: Acceleration,
        model: nn.Module,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> None:
        super().__init__()
        self.network = graph
        self.report = report
        calls = [n for n in graph.graph.nodes if n.op == "call_function"]
        engine = [n for n in calls if n.target is torch.ops.podar.run_sparse.default]
        self._whole = len(engine) == 1 and all(n in engine or n.target is getitem for n in calls)
        self._direct = _direct(graph, engine[0]) if self._whole else None
        self._calling = calling(model, args, kwargs, open_batch=self._whole)
        super().train(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the model's.

        **Raises:** `PodarError` for inputs that are not like the example's.
        """
        (args, kwargs), tensors = self._calling.fitted(args, kwargs)
        # Where one program is the model and nobody watches the operators, the way through torch's dispatcher is saved.
        if self._direct is not None and not torch.compiler.is_compiling() and _unwatched(tensors):
            return self._direct(tensors)
        return self.network(*args, **kwargs)

    def train(self, mode: bool = True) -> Accelerated:
        """The engine only infers: train the model it was made from.

        **Raises:** `UsageError` for `mode=True`.
        """
        if mode:
            raise UsageError(
                "an accelerated model cannot be trained: train the model it came from, then accelerate it."
            )
        return self

    def save(self, path: str | Path) -> None:
        """Write the program file that `podar_native.Runner` runs without torch.

        **Raises:** `PodarError` where some operators stay in torch, so that no one program is the model.
        """
        if not self._whole:
            left = ", ".join(self.report.host) or "regions that are faster in torch"
            raise PodarError(f"this model is no single program: {left} run in torch; there is no file to write.")
        programs = [b for name, b in self.network.named_buffers() if name.startswith("_program_")]
        write_atomic(path, programs[0].numpy().tobytes())


@overload
def accelerate(model: nn.Module, example_inputs: Any, *, measure: bool = True, tune: bool = True) -> Accelerated: ...
@overload
def accelerate(
    model: str | Path, example_inputs: Any = None, *, measure: bool = True, tune: bool = True
) -> AcceleratedFile: ...
def accelerate(
    model: nn.Module | str | Path, example_inputs: Any = None, *, measure: bool = True, tune: bool = True
) -> Accelerated | AcceleratedFile:
    """Run a sparse model's layers in the sparse engine.

    **Arguments:**

    - `model`: a module that torch.export can follow (it is not changed), or an ONNX file.
    - `example_inputs`: a tensor, a tuple, or a dict of keyword arguments; the result takes inputs of these shapes. A
      file whose sizes are all fixed needs none.
    - `measure`: leave regions in the host (torch, or ONNX Runtime for a file) where it is faster (False: whatever the
      engine can run, it runs).
    - `tune`: search each layer's variant inside the network (False: by rules of thumb). What was found is remembered
      under `PODAR_CACHE`, or the user's cache folder.

    **Returns:** a module with the model's outputs (within 1e-4 relative) and a `report`, printable. A file's takes and
    returns tensors or arrays, and runs wholly in ONNX Runtime where nothing is gained.

    **Raises:** `PodarError` where torch.export cannot follow the model, the file is no ONNX model, podar-native is
    missing or too old, or nothing in the module can run in the engine; `UsageError` for a file of open sizes without
    example inputs.

    ```python
    podar.sparsify(model, 0.9)
    fast = podar.accelerate(podar.bake(model), torch.randn(1, 3, 224, 224))
    print(fast.report)
    print(podar.accelerate("model.onnx").report)
    ```
    """
    check_native()
    if isinstance(model, (str, Path)):
        return accelerate_file(Path(model), example_inputs, measure=measure, tune=tune)
    if not isinstance(model, nn.Module):
        raise UsageError(f"accelerate takes a torch module or an ONNX file, not a {type(model).__name__}.")
    args, kwargs = as_arguments(example_inputs)
    check_on_cpu(model)
    example = tensors_in((args, kwargs))
    graph = exported(model, args, kwargs)
    batch = example[0].shape[0] if example[0].ndim else 1
    reasons = {
        node: why
        for node in graph.graph.nodes
        if node.op == "call_function" and (why := reason_against(graph, node, batch)) is not None
    }
    ready = lowered(graph, reasons)
    with torch.no_grad():
        inside = _recorded(graph, args, kwargs)
    reports: list[Region] = []
    moved: dict[fx.Node, fx.Node] = {}  # what regions gave, to what their programs give
    level = ""
    for nodes, lowering in ready:
        inputs = [inside.values[n] for n in lowering.outside]
        program, decisions = choose(lowering.network, [t.numpy() for t in inputs], tune=tune)
        held = torch.frombuffer(bytearray(program), dtype=torch.uint8)
        runner = open_program(held)
        level = runner.level
        engine_ms = (
            fastest(lambda r=runner, i=inputs: r.run([t.contiguous().numpy() for t in i]), times=7)[0]
            if measure
            else float("nan")
        )
        torch_ms = sum(inside.milliseconds[n] for n in nodes)
        kept = not measure or engine_ms < torch_ms
        reports.append(Region(len(nodes), tuple(decisions), engine_ms, torch_ms if measure else float("nan"), kept))
        if kept:
            _put_in(graph, [moved.get(n, n) for n in lowering.outside], nodes, held, len(reports) - 1, moved)
    if not reports:
        raise PodarError(f"nothing in {type(model).__name__} can run in the sparse engine: {_first_reason(reasons)}.")
    legalize_graph(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    report = Acceleration(tuple(reports), by_kind((_kind(n), why) for n, why in reasons.items()), level)
    return Accelerated(graph, report, model, args, kwargs)


# --- regions --------------------------------------------------------------------------------------------------------


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


def _put_in(
    graph: fx.GraphModule,
    inputs: list[fx.Node],
    nodes: list[fx.Node],
    program: Tensor,
    number: int,
    moved: dict[fx.Node, fx.Node],
) -> None:
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


@dataclass(frozen=True)
class _Direct:
    """Runs the one program that is the model on its input tensors.

    - `wanted`: which of them the program reads; `which`: which of its outputs the model gives, in the form `shape`.
    """

    program: Tensor
    wanted: tuple[int, ...]
    which: tuple[int, ...]
    shape: pytree.TreeSpec

    def __call__(self, given: list[Tensor]) -> Any:
        outputs = run_program(self.program, [given[i] for i in self.wanted])
        return pytree.tree_unflatten([outputs[i] for i in self.which], self.shape)


def _direct(graph: fx.GraphModule, call: fx.Node) -> _Direct | None:
    """None where the model's outputs are not simply the program's."""
    information = getattr(graph.graph._codegen, "pytree_info", None)
    if information is None or information.out_spec is None:
        return None
    places = [n for n in graph.graph.nodes if n.op == "placeholder" and isinstance(n.meta.get("val"), Tensor)]
    end = next(n for n in graph.graph.nodes if n.op == "output")
    leaves = pytree.tree_leaves(end.args[0])
    if any(not isinstance(n, fx.Node) or n.target is not getitem or n.args[0] is not call for n in leaves):
        return None
    which = tuple(n.args[1] for n in leaves)
    if len(set(which)) < len(which):
        return None  # outputs that share memory stay as they are
    wanted = tuple(places.index(n) for n in call.args[1])  # type: ignore[union-attr, arg-type]
    program = getattr(graph, str(call.args[0].target))  # type: ignore[union-attr]
    return _Direct(program, wanted, which, information.out_spec)


def _unwatched(given: list[Tensor]) -> bool:
    plain = all(type(t) in (Tensor, nn.Parameter) for t in given)
    return plain and not torch._C._len_torch_dispatch_stack() and not torch._C._len_torch_function_stack()


# --- measuring in the host ------------------------------------------------------------------------------------------


class _Recorder(fx.Interpreter):
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


def _recorded(graph: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Recorder:
    flat = pytree.tree_leaves((args, kwargs))
    recorder = _Recorder(graph)
    for _ in range(5):
        recorder.run(*flat, enable_io_processing=False)
    return recorder


def _first_reason(reasons: Mapping[fx.Node, str]) -> str:
    for node, why in reasons.items():
        return f"{_kind(node)}: {why}"
    return "it has no convolution or linear layer"


def _kind(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.")
