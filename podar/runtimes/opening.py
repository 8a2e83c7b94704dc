"""The runtimes that a model can be measured on: each opens a file or a torch model and runs it on the user's inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.errors import PodarError, UsageError, first_line, nearest, require, sizes
from podar.model.modes import modes_put_back
from podar.runtimes.file_inputs import Wanted, arrays, matched
from podar.runtimes.onnx_session import session, wanted_by
from podar.trust import programs

if TYPE_CHECKING:
    from torch import nn

Model = Any  # a path, or a torch module


@dataclass(frozen=True)
class Opened:
    """A model loaded in a runtime.

    - `runtime`: name and version, e.g. `"onnxruntime 1.32.0"`.
    - `run`: runs the example inputs once; its outputs are ready when it returns.
    - `params()`: how many numbers it stores as floating-point weights, or None where that cannot be told. A call, since
      counting may load what the runtime itself does not need (and the memory of a child process would show it).
    """

    runtime: str
    run: Callable[[], Any]
    params: Callable[[], int | None]


@dataclass(frozen=True)
class Runtime:
    """One way to run a model: the package that is imported, which files it reads, and how a model is opened in it."""

    name: str
    package: str
    suffixes: tuple[str, ...]
    open: Callable[[Any, Any, int], Opened]


RUNTIMES: dict[str, Runtime] = {}


def runtime(
    name: str, *, package: str, suffixes: tuple[str, ...]
) -> Callable[[Callable[..., Opened]], Callable[..., Opened]]:
    """Register `open(path or module, example_inputs, threads) -> Opened` under a runtime's name."""

    def register(function: Callable[..., Opened]) -> Callable[..., Opened]:
        RUNTIMES[name] = Runtime(name, package, suffixes, function)
        return function

    return register


def open_in(name: str | None, model: str | Path | nn.Module, example_inputs: Any, threads: int) -> Opened:
    """Open a model in the runtime of that name (None: the first that reads it), and run it once.

    **Raises:** `UsageError` for an unknown runtime, a runtime that does not read this kind of file, threads below 1;
    `PodarError` for a missing file, a file that is no model, inputs that do not fit, a package that is not installed.
    """
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise UsageError(f"threads is {threads!r}: give a whole number from 1 up.")
    choices = readers(model)
    if name is None:
        return choices[0].open(model, example_inputs, threads)
    if name not in RUNTIMES:
        near = nearest(name, RUNTIMES)
        hint = f"did you mean {near}? " if near else ""
        raise UsageError(f"unknown runtime {name!r}: {hint}there are {', '.join(RUNTIMES)}.")
    if RUNTIMES[name] not in choices:
        raise UsageError(f"{name} does not run {_called(model)}; {' and '.join(c.name for c in choices)} can.")
    return RUNTIMES[name].open(model, example_inputs, threads)


def readers(model: str | Path | nn.Module) -> list[Runtime]:
    """The runtimes that can open this model, the usual one first."""
    if not isinstance(model, (str, Path)):
        return [RUNTIMES["torch"], *([RUNTIMES["podar"]] if _gains_from_zeros(model) else [])]
    path = Path(model)
    if not path.exists():
        raise PodarError(f"cannot measure {path}: there is no such file.")
    if path.is_dir():
        raise PodarError(f"cannot measure {path}: it is a folder; name the model file in it.")
    found = [r for r in RUNTIMES.values() if path.suffix.lower() in r.suffixes]
    if path.suffix.lower() == ".onnx" and not _file_gains_from_zeros(path):
        found.remove(RUNTIMES["podar"])
    if not found:
        known = ", ".join(sorted({s for r in RUNTIMES.values() for s in r.suffixes}))
        raise UsageError(f"cannot measure {path}: {path.suffix or 'a name without suffix'} is none of {known}.")
    return found


def file_bytes(path: Path) -> int:
    """Size of the deployable model: the file, and the weights that travel beside it (OpenVINO's .bin, ONNX's .data)."""
    beside = [path.with_suffix(".bin")] if path.suffix == ".xml" else [path.with_name(path.name + ".data")]
    return path.stat().st_size + sum(p.stat().st_size for p in beside if p.exists())


def _called(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else f"a torch model ({type(model).__name__})"


# --- the runtimes ---------------------------------------------------------------------------------------------------


@runtime("onnxruntime", package="onnxruntime", suffixes=(".onnx",))
def open_onnxruntime(path: str | Path, example_inputs: Any, threads: int) -> Opened:
    """ONNX Runtime on the CPU, operators one after the other, threads that sleep while they wait."""
    path = Path(path)
    opened = session(path, threads)
    inputs = matched(path, wanted_by(opened, path), example_inputs)

    def run() -> Any:
        return opened.run(None, inputs)

    try:
        run()
    except Exception as error:  # its exceptions share no base class
        raise PodarError(f"{path} does not run on the example inputs: {first_line(error)}.") from error
    return Opened(f"onnxruntime {require('onnxruntime', extra='onnx').__version__}", run, lambda: _onnx_params(path))


def _onnx_params(path: Path) -> int | None:
    """Numbers in the floating-point initialisers; None without the onnx package, which ONNX Runtime does not need."""
    try:
        import onnx
    except ImportError:
        return None
    graph = onnx.load(str(path), load_external_data=False).graph
    floats = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)
    return sum(int(np.prod(t.dims)) for t in graph.initializer if t.data_type in floats)


@runtime("openvino", package="openvino", suffixes=(".xml", ".onnx"))
def open_openvino(path: str | Path, example_inputs: Any, threads: int) -> Opened:
    """OpenVINO on the CPU in float32 (it would round to bfloat16 where the processor can), one stream."""
    path = Path(path)
    ov = require("openvino", extra="openvino")
    core = ov.Core()
    try:
        model = core.read_model(str(path))
    except Exception as error:
        raise PodarError(f"{path} is not a model that OpenVINO can open: {first_line(error)}.") from error
    inputs = matched(path, openvino_wants(model), example_inputs)
    try:
        # A size left open costs OpenVINO speed; whoever deploys a model sets it, so we do.
        model.reshape({name: list(value.shape) for name, value in inputs.items()})
        compiled = core.compile_model(
            model,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": "f32",
                "INFERENCE_NUM_THREADS": threads,
                "NUM_STREAMS": 1,
                "PERFORMANCE_HINT": "LATENCY",
            },
        )
        request = compiled.create_infer_request()
        request.infer(inputs)
    except Exception as error:
        raise PodarError(f"{path} does not run on the example inputs: {first_line(error)}.") from error

    def run() -> Any:
        return request.infer(inputs, share_inputs=True, share_outputs=True)

    def params() -> int:
        constants = [op for op in model.get_ops() if op.get_type_name() == "Constant"]
        return sum(int(np.prod(c.get_output_shape(0))) for c in constants if c.get_output_element_type(0).is_real())

    return Opened(f"openvino {ov.__version__.partition('-')[0]}", run, params)


def openvino_wants(model: Any) -> list[Wanted]:
    """The inputs of an OpenVINO model."""
    found = []
    for port in model.inputs:
        shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
        found.append(Wanted(port.get_any_name(), shape, np.dtype(port.get_element_type().to_dtype()).name))
    return found


@runtime("torch", package="torch", suffixes=(".pt2",))
def open_torch(model: str | Path | nn.Module, example_inputs: Any, threads: int) -> Opened:
    """PyTorch itself: a module in eval mode, operator by operator, or an exported program (.pt2)."""
    import torch

    from podar.model.inputs import call

    module, inputs = _open_program(model, example_inputs) if isinstance(model, (str, Path)) else (model, example_inputs)
    on_gpu = any(p.is_cuda for p in module.parameters())

    def run() -> Any:
        with torch.no_grad():  # inference_mode would leave tensors in the model's caches that cannot train any more
            out = call(module, inputs)
            if on_gpu:
                torch.cuda.synchronize()
            return out

    with as_for_serving(module, threads):
        try:
            run()
        except Exception as error:
            given = ", ".join(f"{sizes(a.shape)} {a.dtype}" for a in _shown(example_inputs)) or "made by a callable"
            raise PodarError(
                f"{_called(model)} does not run on the example inputs ({given}): {first_line(error)}."
            ) from error
    return Opened(f"torch {torch.__version__}", run, lambda: sum(p.numel() for p in module.parameters()))


@runtime("podar", package="podar_native", suffixes=(".podar", ".onnx"))
def open_sparse_engine(model: str | Path | nn.Module, example_inputs: Any, threads: int) -> Opened:
    """podar's sparse engine: a module or an ONNX file through `podar.accelerate`, or a program file without torch."""
    native = require("podar_native", extra="sparse")
    name = f"podar-native {native.__version__}"
    if isinstance(model, (str, Path)):
        path = Path(model)
        if path.suffix.lower() == ".onnx":
            return _open_accelerated(path, example_inputs, threads, name)
        try:
            runner = native.Runner(path, threads=threads)
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise PodarError(f"the sparse engine cannot open {path}: {first_line(error)}.") from error
        inputs = list(matched(path, program_wants(runner), example_inputs).values())
        stored = sum(layer["nonzeros"] for layer in runner.description["layers"])
        return Opened(name, lambda: runner.run(inputs), lambda: stored)
    import torch

    from podar.engine import accelerate
    from podar.model.inputs import call

    if callable(example_inputs):
        raise PodarError("the sparse engine is measured on tensors: give a tensor, a tuple or a dict, not a callable.")
    with as_for_serving(model, threads):
        fast = accelerate(model, example_inputs)

    def run() -> Any:
        with torch.no_grad():
            return call(fast, example_inputs)

    host = "+ torch" if any(region.kept for region in fast.report.regions) else "(all in torch)"
    return Opened(f"{name} {host}", run, lambda: sum(int(p.count_nonzero()) for p in model.parameters()))


def program_wants(runner: Any) -> list[Wanted]:
    """The inputs of a program of the sparse engine, any batch."""
    return [Wanted(entry["name"], (None, *entry["shape"]), "float32") for entry in runner.description["inputs"]]


def _open_accelerated(path: Path, example_inputs: Any, threads: int, name: str) -> Opened:
    """An ONNX file: sparse layers in the engine, the rest in ONNX Runtime."""
    from podar.engine.onnx_accelerating import accelerate_file

    fast = accelerate_file(path, example_inputs, threads=threads)
    inputs = arrays(example_inputs)
    host = "(all in onnxruntime)" if fast.report.whole_in_onnxruntime else "+ onnxruntime"
    return Opened(f"{name} {host}", lambda: fast.run(inputs), lambda: _onnx_nonzeros(path))


def _onnx_nonzeros(path: Path) -> int | None:
    return sum(nonzeros for nonzeros, _ in _onnx_zeros(path))


def _onnx_zeros(path: Path) -> Iterator[tuple[int, int]]:
    """Nonzero and all numbers of every matrix among an ONNX file's weights."""
    import onnx

    graph = onnx.load(str(path)).graph
    for tensor in graph.sparse_initializer:
        yield len(tensor.indices.dims) and int(tensor.indices.dims[0]), int(np.prod(tensor.dims))
    constants = [a.t for node in graph.node if node.op_type == "Constant" for a in node.attribute if a.name == "value"]
    for tensor in (*graph.initializer, *constants):
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            numbers = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
            yield int(np.count_nonzero(numbers)), numbers.size


def _file_gains_from_zeros(path: Path) -> bool:
    """Whether half of some matrix in the file are zeros; False without the package onnx, which tells."""
    try:
        return any(2 * nonzeros <= size for nonzeros, size in _onnx_zeros(path) if size > 256)
    except Exception:  # no onnx, or not an ONNX file: who opens it says so
        return False


def _gains_from_zeros(module: nn.Module) -> bool:
    """Whether half of some layer's weights are zeros."""
    matrices = [p for p in module.parameters() if p.ndim > 1 and p.numel() and not p.is_cuda]
    return any(2 * int(p.count_nonzero()) <= p.numel() for p in matrices)


def _open_program(path: str | Path, example_inputs: Any) -> tuple[nn.Module, Any]:
    """The exported program as a module, and the example inputs as it wants them: flat, where podar.export wrote it."""
    import warnings

    import torch

    from podar.model.inputs import named_tensors

    programs.refuse_unknown(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's loader uses what torch deprecates
            program = torch.export.load(str(path))
            module = program.module()
    except Exception as error:
        raise PodarError(f"{path} is not an exported program that torch can open: {first_line(error)}.") from error
    args, kwargs = program.example_inputs or ((), {})
    flat = not kwargs and all(isinstance(value, torch.Tensor) for value in args) and not callable(example_inputs)
    return module, tuple(t for _, t in named_tensors(example_inputs)) if flat else example_inputs


def _shown(example_inputs: Any) -> list[np.ndarray]:
    return [] if callable(example_inputs) else list(arrays(example_inputs).values())


@contextlib.contextmanager
def as_for_serving(model: Any, threads: int) -> Iterator[None]:
    """While timed: a torch module stands in eval mode, torch uses that many threads. Put back as they were after."""
    if isinstance(model, (str, Path)) and Path(model).suffix.lower() not in RUNTIMES["torch"].suffixes:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        if isinstance(model, (str, Path)):
            yield
            return
        with modes_put_back(model):
            with contextlib.suppress(NotImplementedError):  # an exported program: its mode is fixed
                model.eval()
            yield
    finally:
        torch.set_num_threads(before)
