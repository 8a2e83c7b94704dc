"""ONNX Runtime: ONNX files, on the CPU. The sparse engine also opens pieces of files in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from podar.errors import PodarError, first_line, require
from podar.runtimes.onnx_files import count_weights, refuse_outside
from podar.runtimes.register import runtime
from podar.runtimes.session import Port

_DTYPES = {
    "tensor(float)": "float32", "tensor(double)": "float64", "tensor(float16)": "float16", "tensor(bool)": "bool",
    "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(int16)": "int16", "tensor(int8)": "int8",
    "tensor(uint64)": "uint64", "tensor(uint32)": "uint32", "tensor(uint16)": "uint16", "tensor(uint8)": "uint8",
}  # fmt: skip


def session(
    model: str | Path | bytes, threads: int, *, without: Sequence[str] = (), name: str | None = None, **settings: Any
) -> Any:
    """One of ONNX Runtime's own sessions: operators one after the other, threads that sleep while they wait, no talk.

    **Arguments:**

    - `model`: an ONNX file, or the bytes of one.
    - `without`: names of optimisers that are left out.
    - `name`: what the model is called in an error; None: the file.
    - `settings`: attributes of ONNX Runtime's `SessionOptions`.

    **Raises:** `PodarError` where ONNX Runtime is missing, cannot open the model, or would read files outside of the
    model's folder.
    """
    if not isinstance(model, bytes):
        refuse_outside(Path(model))
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


@dataclass(frozen=True)
class OnnxSession:
    """A session of ONNX Runtime as all runtimes give it."""

    opened: Any
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    version: str

    def run(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The outputs, in order."""
        return self.opened.run(None, {port.name: array for port, array in zip(self.inputs, arrays)})


def serving(opened: Any, called: str) -> OnnxSession:
    """One of ONNX Runtime's own sessions as a `Session`; `called`: its model, in an error.

    **Raises:** `PodarError` for an input that is no tensor of numbers that numpy has.
    """
    for entry in opened.get_inputs():
        if entry.type not in _DTYPES:
            raise PodarError(f"{called} cannot be run here: its input {entry.name} is a {entry.type}.")
    version = f"onnxruntime {require('onnxruntime', extra='onnx').__version__}"
    return OnnxSession(opened, _ports(opened.get_inputs()), _ports(opened.get_outputs()), version)


def _ports(entries: Sequence[Any]) -> tuple[Port, ...]:
    return tuple(
        Port(
            entry.name,
            tuple(size if isinstance(size, int) else None for size in entry.shape or ()),
            _DTYPES.get(entry.type) or str(entry.type),
        )
        for entry in entries
    )


@runtime(
    "onnxruntime", package="onnxruntime", extra="onnx", suffixes=(".onnx",), sidecars=(".onnx.data",), widths=8,
    weights=count_weights,
)  # fmt: skip
def open_(file: Path, threads: int) -> OnnxSession:
    """ONNX Runtime on the CPU, operators one after the other, threads that sleep while they wait."""
    return serving(session(file, threads), str(file))
