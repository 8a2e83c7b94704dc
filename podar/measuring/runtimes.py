"""The runtimes that a model can be measured on: each opens a file or a torch model and runs it on the user's inputs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from podar.errors import PodarError, UsageError, first_line, nearest, require, sizes

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
    """One way to run a model: what its package is called, which files it reads, and how a model is opened in it."""

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


# --- inputs ---------------------------------------------------------------------------------------------------------


def arrays(example_inputs: Any) -> dict[str, np.ndarray]:
    """Every tensor or array of the example inputs by its path ("" for a lone one, "0", "input_ids", "boxes.1")."""
    return dict(_walk(example_inputs, ""))


def _walk(value: Any, path: str) -> Iterator[tuple[str, np.ndarray]]:
    if isinstance(value, np.ndarray):
        yield path, value
    elif hasattr(value, "detach"):  # a torch tensor; torch itself is not imported for files
        try:
            yield path, value.detach().cpu().numpy()
        except TypeError as error:
            raise PodarError(f"the example input {path or 'tensor'} cannot be given to a runtime: {error}.") from error
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _walk(item, f"{path}.{key}" if path else str(key))
    elif isinstance(value, (tuple, list)):
        for index, item in enumerate(value):
            yield from _walk(item, f"{path}.{index}" if path else str(index))
    elif callable(value):
        raise UsageError("a model file is measured on tensors: give a tensor, a tuple or a dict instead of a callable.")


def feed(
    path: Path, example_inputs: Any, wanted: Sequence[tuple[str, tuple[int | None, ...], str]]
) -> dict[str, np.ndarray]:
    """Match the example inputs to a file's inputs, by name where all names agree, else by position.

    `wanted`: (name, shape with None where any size goes, numpy dtype name) of each input of the file.
    """
    given = arrays(example_inputs)
    by_name = {key.replace(".", "_"): value for key, value in given.items()}
    names = [name for name, _, _ in wanted]
    if not set(names) <= set(by_name):
        if len(given) != len(names):
            raise PodarError(
                f"{path} takes {len(names)} input{'s' if len(names) != 1 else ''} ({', '.join(names)}), "
                f"but the example inputs hold {len(given)}."
            )
        by_name = dict(zip(names, given.values()))
    for name, shape, dtype in wanted:
        value = by_name[name]
        fits = len(shape) == value.ndim and all(want in (None, got) for want, got in zip(shape, value.shape))
        if not fits or value.dtype != np.dtype(dtype):
            raise PodarError(
                f"the example input does not fit {path}: its input {name} is {_shape(shape)} {dtype}, "
                f"the example is {_shape(value.shape)} {value.dtype}."
            )
    return {name: np.ascontiguousarray(by_name[name]) for name in names}


def _shape(shape: Sequence[int | None]) -> str:
    return sizes("any" if size is None else size for size in shape)


def _called(model: Any) -> str:
    return str(model) if isinstance(model, (str, Path)) else f"a torch model ({type(model).__name__})"


# --- the runtimes ---------------------------------------------------------------------------------------------------

_ONNX_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
    "tensor(uint64)": "uint64", "tensor(uint32)": "uint32", "tensor(uint16)": "uint16", "tensor(uint8)": "uint8",
}  # fmt: skip


@runtime("onnxruntime", package="onnxruntime", suffixes=(".onnx",))
def open_onnxruntime(path: str | Path, example_inputs: Any, threads: int) -> Opened:
    """ONNX Runtime on the CPU, operators one after the other, threads that sleep while they wait."""
    path = Path(path)
    ort = require("onnxruntime", extra="onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions share no base class
        raise PodarError(f"{path} is not a model that ONNX Runtime can open: {first_line(error)}.") from error
    wanted = []
    for entry in session.get_inputs():
        if entry.type not in _ONNX_DTYPES:
            raise PodarError(f"{path} cannot be measured: its input {entry.name} is a {entry.type}.")
        shape = tuple(size if isinstance(size, int) else None for size in entry.shape)
        wanted.append((entry.name, shape, _ONNX_DTYPES[entry.type]))
    inputs = feed(path, example_inputs, wanted)

    def run() -> Any:
        return session.run(None, inputs)

    try:
        run()
    except Exception as error:
        raise PodarError(f"{path} does not run on the example inputs: {first_line(error)}.") from error
    return Opened(f"onnxruntime {ort.__version__}", run, lambda: _onnx_params(path))


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
    wanted = []
    for port in model.inputs:
        shape = tuple(None if size.is_dynamic else size.get_length() for size in port.get_partial_shape())
        wanted.append((port.get_any_name(), shape, np.dtype(port.get_element_type().to_dtype()).name))
    inputs = feed(path, example_inputs, wanted)
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


@runtime("torch", package="torch", suffixes=(".pt2",))
def open_torch(model: str | Path | nn.Module, example_inputs: Any, threads: int) -> Opened:
    """PyTorch itself: a module in eval mode, operator by operator, or an exported program (.pt2)."""
    import torch

    from podar.graph.inputs import call

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
            given = ", ".join(f"{_shape(a.shape)} {a.dtype}" for a in _shown(example_inputs)) or "made by a callable"
            raise PodarError(
                f"{_called(model)} does not run on the example inputs ({given}): {first_line(error)}."
            ) from error
    return Opened(f"torch {torch.__version__}", run, lambda: sum(p.numel() for p in module.parameters()))


@runtime("podar", package="podar-native", suffixes=(".podar", ".onnx"))
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
            named = runner.description["inputs"]
        except (ValueError, KeyError, TypeError) as error:
            raise PodarError(
                f"{path} is not a program that the sparse engine can open: {first_line(error)}."
            ) from error
        inputs = list(feed(path, example_inputs, [(i["name"], (None, *i["shape"]), "float32") for i in named]).values())
        stored = sum(layer["nonzeros"] for layer in runner.description["layers"])
        return Opened(name, lambda: runner.run(inputs), lambda: stored)
    import torch

    from podar.graph.inputs import call
    from podar.runtime import accelerate

    if callable(example_inputs):
        raise UsageError("the sparse engine is measured on tensors: give a tensor, a tuple or a dict, not a callable.")
    with as_for_serving(model, threads):
        fast = accelerate(model, example_inputs)

    def run() -> Any:
        with torch.no_grad():
            return call(fast, example_inputs)

    return Opened(name, run, lambda: sum(int(p.count_nonzero()) for p in model.parameters()))


def _open_accelerated(path: Path, example_inputs: Any, threads: int, name: str) -> Opened:
    """An ONNX file: sparse layers in the engine, the rest in ONNX Runtime."""
    from podar.runtime.onnx_accelerating import accelerate_file

    given = arrays(example_inputs)
    inputs = next(iter(given.values())) if set(given) == {""} else given if "0" not in given else tuple(given.values())
    fast = accelerate_file(path, inputs, threads=threads)
    return Opened(name, lambda: fast.run(inputs), lambda: _onnx_nonzeros(path))


def _onnx_nonzeros(path: Path) -> int | None:
    return sum(nonzeros for nonzeros, _ in _onnx_zeros(path))


def _onnx_zeros(path: Path) -> Iterator[tuple[int, int]]:
    """Nonzero and all numbers of every matrix among an ONNX file's weights."""
    import onnx

    graph = onnx.load(str(path)).graph
    for tensor in graph.sparse_initializer:
        yield len(tensor.indices.dims) and int(tensor.indices.dims[0]), int(np.prod(tensor.dims))
    for tensor in graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) > 1:
            numbers = onnx.numpy_helper.to_array(tensor, base_dir=str(path.parent))
            yield int(np.count_nonzero(numbers)), numbers.size


def _file_gains_from_zeros(path: Path) -> bool:
    """Whether the sparse engine is here, and half of some matrix in the file are zeros."""
    if not _installed("podar_native", "onnx"):
        return False
    try:
        return any(2 * nonzeros <= size for nonzeros, size in _onnx_zeros(path) if size > 256)
    except Exception:  # not an ONNX file: who opens it says so
        return False


def _installed(*packages: str) -> bool:
    import importlib.util

    return all(importlib.util.find_spec(package) is not None for package in packages)


def _gains_from_zeros(module: nn.Module) -> bool:
    """Whether the sparse engine is here, and half of some layer's weights are zeros."""
    if not _installed("podar_native"):
        return False
    matrices = [p for p in module.parameters() if p.ndim > 1 and p.numel() and not p.is_cuda]
    return any(2 * int(p.count_nonzero()) <= p.numel() for p in matrices)


def _open_program(path: str | Path, example_inputs: Any) -> tuple[nn.Module, Any]:
    """The exported program as a module, and the example inputs as it wants them: flat, where podar.export wrote it."""
    import warnings

    import torch

    from podar.graph.inputs import named_tensors

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
        with contextlib.nullcontext() if isinstance(model, (str, Path)) else _eval_mode(model):
            yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _eval_mode(module: nn.Module) -> Iterator[None]:
    modes = {m: m.training for m in module.modules()}
    try:
        module.eval()
    except NotImplementedError:  # an exported program: its mode was fixed when it was exported
        yield
        return
    try:
        yield
    finally:
        # train() first: some models override it to drop what they cached in eval mode. Then each part's own mode.
        module.train(modes[module])
        for part, mode in modes.items():
            part.training = mode
