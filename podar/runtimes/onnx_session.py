"""ONNX Runtime's sessions as podar opens them, and the inputs that a session wants; it imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podar.errors import PodarError, first_line, require
from podar.runtimes.file_inputs import Wanted

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
    "tensor(uint64)": "uint64", "tensor(uint32)": "uint32", "tensor(uint16)": "uint16", "tensor(uint8)": "uint8",
}  # fmt: skip


def session(
    model: str | Path | bytes, threads: int, *, without: Sequence[str] = (), name: str | None = None, **settings: Any
) -> Any:
    """A session on the CPU: operators one after the other, threads that sleep while they wait, no talk.

    **Arguments:**

    - `model`: an ONNX file, or the bytes of one.
    - `without`: names of optimisers that are left out.
    - `name`: what the model is called in an error; None: the file.
    - `settings`: attributes of ONNX Runtime's `SessionOptions`.

    **Raises:** `PodarError` where ONNX Runtime is missing, or cannot open the model.
    """
    ort = require("onnxruntime", extra="onnx")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = 4  # what is wrong arrives as an exception
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    for key, value in settings.items():
        setattr(options, key, value)
    left_out = {"disabled_optimizers": list(without)} if without else {}
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], **left_out)
    except Exception as error:  # its exceptions share no base class
        called = name or ("the model" if isinstance(model, bytes) else source)
        raise PodarError(f"{called} is not a model that ONNX Runtime can open: {first_line(error)}.") from error


def wanted_by(opened: Any, file: str | Path) -> list[Wanted]:
    """The inputs of a session.

    **Raises:** `PodarError` for an input that is no tensor of numbers that numpy has; it names the `file`.
    """
    found = []
    for entry in opened.get_inputs():
        if entry.type not in _DTYPES:
            raise PodarError(f"{file} cannot be run here: its input {entry.name} is a {entry.type}.")
        shape = tuple(size if isinstance(size, int) else None for size in entry.shape)
        found.append(Wanted(entry.name, shape, _DTYPES[entry.type]))
    return found
