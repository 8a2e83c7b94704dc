"""Runs a torch model in ONNX Runtime: the engine is compared with it, and the model stays there where it is faster."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils._pytree as pytree
from torch import Tensor

from podar.errors import PodarError, first_line, require
from podar.model.quiet import quiet_exporters
from podar.runtimes.onnxruntime import OnnxSession, serving, session

_MOST_BYTES = 2**30  # of weights: a protobuf message ends at 2 GB, and both sides hold them
_CLOSE = 1e-3  # of an output's largest number


class InOnnxRuntime:
    """A model as an ONNX file in memory, run on tensors of the example's shapes. Copies open it again."""

    def __init__(self, model: bytes, form: pytree.TreeSpec, threads: int) -> None:
        self.model, self.form, self.threads = model, form, threads
        self.session: OnnxSession | None = None

    def __call__(self, tensors: list[Tensor]) -> Any:
        if self.session is None:
            self.session = serving(session(self.model, self.threads), "the model")
        arrays = [tensor.detach().contiguous().numpy() for tensor in tensors]
        outputs = self.session.run(arrays)
        return pytree.tree_unflatten([torch.from_numpy(array) for array in outputs], self.form)

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"session": None}


def in_onnxruntime(program: torch.export.ExportedProgram, tensors: list[Tensor], expected: Any) -> InOnnxRuntime:
    """The program in ONNX Runtime, checked on the example: `tensors` give `expected`.

    **Raises:** `PodarError` with the reason why it cannot be compared: a package is missing, the model cannot be
    exported, or gives something else there.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        require(package, extra="onnx")
    stored = {t.untyped_storage().data_ptr(): t.nbytes for t in program.state_dict.values()}
    if sum(stored.values()) > _MOST_BYTES:
        raise PodarError("the model is too large to be written as ONNX in memory.")
    leaves, form = pytree.tree_flatten(expected)
    try:
        with quiet_exporters():
            written = torch.onnx.export(program, dynamo=True, verbose=False)
            assert written is not None
            found = InOnnxRuntime(written.model_proto.SerializeToString(), form, torch.get_num_threads())
            got = pytree.tree_leaves(found(tensors))
    except Exception as error:  # the exporter raises dozens of kinds
        while error.__cause__ is not None and isinstance(error.__cause__, Exception):
            error = error.__cause__
        raise PodarError(f"the model cannot be exported: {first_line(error)}.") from error
    if len(got) != len(leaves) or not all(map(_alike, got, leaves)):
        raise PodarError("ONNX Runtime does not compute what the model computes.")
    return found


def _alike(one: Any, other: Any) -> bool:
    if not isinstance(one, Tensor) or not isinstance(other, Tensor):
        return False
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    if not one.is_floating_point() or not one.numel():
        return torch.equal(one, other)
    largest = float(other.detach().abs().max())
    return torch.allclose(one, other.detach(), rtol=0, atol=_CLOSE * max(1e-6, largest))
