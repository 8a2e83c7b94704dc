"""`podar.accelerate`: a model's sparse regions move into the engine, the rest stays in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from operator import getitem
from pathlib import Path
from typing import Any, overload

import torch
import torch.utils._pytree as pytree
from torch import Tensor, fx, nn
from torch.fx.passes.tools_common import legalize_graph

from podar.engine.calling import as_arguments, calling, check_on_cpu
from podar.engine.choosing import LayerSpeed, choose
from podar.engine.folding import exported, simplified
from podar.engine.host import by_kind, fastest_times
from podar.engine.native import check_native
from podar.engine.onnx_accelerating import AcceleratedFile, accelerate_file
from podar.engine.onnx_rival import InOnnxRuntime, in_onnxruntime
from podar.engine.operator import open_program, run_program
from podar.engine.regions import lowered, put_in, reasons_against, recorded
from podar.errors import PodarError, UsageError
from podar.files import write_atomic
from podar.model.quiet import sources_forgotten
from podar.model.tensors import tensors_in

_TIMES = 9  # runs of each side, in turn


@dataclass(frozen=True)
class Region:
    """Operators that lie together and run as one program.

    - `layers`: what was decided for each convolution and linear layer.
    - `engine_ms`, `torch_ms`: a run of the region in each; NaN where it was not measured.
    - `kept`: whether the engine runs it.
    """

    operators: int
    layers: tuple[LayerSpeed, ...]
    engine_ms: float
    torch_ms: float
    kept: bool


@dataclass(frozen=True)
class Acceleration:
    """What `podar.accelerate` did: the regions, and the operators that stay in torch with the reason for each kind.

    - `engine_ms`, `onnxruntime_ms`: a run of the whole model by the regions, and in ONNX Runtime; NaN where it was not
      measured, and `not_compared` says why.
    - `in_onnxruntime`: ONNX Runtime is faster, so the model runs there.
    """

    regions: tuple[Region, ...]
    host: Mapping[str, tuple[int, str]]
    level: str
    engine_ms: float = math.nan
    onnxruntime_ms: float = math.nan
    not_compared: str = ""
    in_onnxruntime: bool = False

    def __str__(self) -> str:
        lines = [f"sparse engine ({self.level}):"]
        if not math.isnan(self.onnxruntime_ms):
            lines = [
                f"sparse engine ({self.level}) and torch: {self.engine_ms:.2f} ms, ONNX Runtime "
                f"{self.onnxruntime_ms:.2f} ms → {'ONNX Runtime' if self.in_onnxruntime else 'the plan below'}"
            ]
        elif self.not_compared:
            lines.append(f"  not compared with ONNX Runtime: {self.not_compared}")
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
    program runs the whole model. Where ONNX Runtime is faster, inputs of the example's very shapes go there.
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
        self._rival: InOnnxRuntime | None = None
        self._shapes = [tensor.shape for tensor in tensors_in((args, kwargs))]
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
        # Whoever watches the operators, or compiles them, sees those of torch and the engine.
        if torch.compiler.is_compiling() or not _unwatched(tensors):
            return self.network(*args, **kwargs)
        if self._rival is not None and [tensor.shape for tensor in tensors] == self._shapes:
            return self._rival(tensors)
        # Where one program is the model, the way through torch's dispatcher is saved.
        return self._direct(tensors) if self._direct is not None else self.network(*args, **kwargs)

    def compare(self, program: torch.export.ExportedProgram, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Measure the whole model, which `program` is, in ONNX Runtime too: it runs there where that is faster."""
        tensors = tensors_in((args, kwargs))
        with torch.no_grad():
            try:
                rival = in_onnxruntime(program, tensors, self(*args, **kwargs))
            except PodarError as error:
                self.report = replace(self.report, not_compared=str(error))
                return
            ours, theirs = fastest_times(lambda: self(*args, **kwargs), lambda: rival(tensors), times=_TIMES)
        wins = theirs < ours
        self.report = replace(self.report, engine_ms=ours, onnxruntime_ms=theirs, in_onnxruntime=wins)
        self._rival = rival if wins else None

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
    - `measure`: leave regions in the host (torch, or ONNX Runtime for a file) where it is faster, and the whole model
      to ONNX Runtime where it is installed and faster (False: whatever the engine can run, it runs).
    - `tune`: search each layer's variant inside the network (False: by rules of thumb). What was found is remembered
      under `PODAR_CACHE`, or the user's cache folder.

    **Returns:** A module with the model's outputs (within 1e-4 relative) and a `report`, printable. A file's takes and
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
    with sources_forgotten():
        program = exported(model, args, kwargs)
        graph, report = _with_programs(simplified(program), args, kwargs, type(model).__name__, measure, tune)
        fast = Accelerated(graph, report, model, args, kwargs)
        if measure:
            fast.compare(program, args, kwargs)
        return fast


def _with_programs(
    graph: fx.GraphModule, args: tuple[Any, ...], kwargs: dict[str, Any], name: str, measure: bool, tune: bool
) -> tuple[fx.GraphModule, Acceleration]:
    """The graph with its regions as programs, and what was decided."""
    first = tensors_in((args, kwargs))[0]
    reasons = reasons_against(graph, first.shape[0] if first.ndim else 1)
    ready = lowered(graph, reasons)
    with torch.no_grad():
        inside = recorded(graph, args, kwargs)
    regions: list[Region] = []
    moved: dict[fx.Node, fx.Node] = {}  # what regions gave, to what their programs give
    level = ""
    for nodes, lowering in ready:
        inputs = [inside.values[n] for n in lowering.outside]
        program, decisions = choose(lowering.network, [t.numpy() for t in inputs], tune=tune)
        held = torch.frombuffer(bytearray(program), dtype=torch.uint8)
        runner = open_program(held)
        level = runner.level
        engine_ms = torch_ms = math.nan
        if measure:
            (engine_ms,) = fastest_times(lambda r=runner, i=inputs: r.run([t.contiguous().numpy() for t in i]), times=7)
            torch_ms = sum(inside.milliseconds[n] for n in nodes)
        kept = not measure or engine_ms < torch_ms
        regions.append(Region(len(nodes), tuple(decisions), engine_ms, torch_ms, kept))
        if kept:
            put_in(graph, [moved.get(n, n) for n in lowering.outside], nodes, held, len(regions) - 1, moved)
    if not regions:
        raise PodarError(f"nothing in {name} can run in the sparse engine: {_first_reason(reasons)}.")
    legalize_graph(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph, Acceleration(tuple(regions), by_kind((_kind(n), why) for n, why in reasons.items()), level)


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


def _first_reason(reasons: Mapping[fx.Node, str]) -> str:
    for node, why in reasons.items():
        return f"{_kind(node)}: {why}"
    return "it has no convolution or linear layer"


def _kind(node: fx.Node) -> str:
    return str(node.target).removeprefix("aten.")
