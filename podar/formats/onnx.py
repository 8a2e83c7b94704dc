"""ONNX files: written through torch.export with batch norm folded and constants computed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from podar.errors import PodarError, UsageError, first_line, require
from podar.formats.flat import Flat
from podar.formats.registry import Attempt, WritingOptions, Written, file_format
from podar.model.quiet import quiet_exporters

OLDEST_OPSET = 9
"""Older operator sets can say hardly any network of today."""

# A protobuf message ends at 2 GB; larger weights go into a second file. Some room is left for the graph itself.
_SIDECAR_BYTES = 2**31 - 2**24


@file_format(
    "onnx", suffix=".onnx", runtime="onnxruntime", packages=("onnx", "onnxscript"),
    help="ONNX Runtime, and most other runtimes",
)  # fmt: skip
def write_onnx(flat: Flat, path: Path, options: WritingOptions) -> list[Attempt]:
    """Ways to write an ONNX file: any batch size; the example's alone; and, where torch.export cannot follow the
    model, the older TorchScript exporter."""
    if options.opset is not None:
        _check_opset(options.opset)
    attempts: list[Attempt] = []
    if options.dynamic_batch and any(flat.batched):
        attempts.append(lambda: _through_torch_export(flat, path, options, dynamic=True))
    attempts.append(lambda: _through_torch_export(flat, path, options, dynamic=False))
    attempts.append(lambda: _through_torchscript(flat, path, options))
    return attempts


def _through_torch_export(flat: Flat, path: Path, options: WritingOptions, *, dynamic: bool) -> Written:
    # torch.export takes an axis of length 1 for a constant, so the example grows to two.
    inputs = flat.with_batch(flat.inputs, max(flat.batch, 2)) if dynamic else flat.inputs
    size = torch.export.Dim("batch")
    shapes = tuple({0: size} if grows else None for grows in flat.batched)
    with quiet_exporters(options.verbose):
        try:
            program = torch.onnx.export(
                flat.module,
                inputs,
                dynamo=True,
                input_names=list(flat.input_names),
                output_names=list(flat.output_names),
                opset_version=options.opset,
                dynamic_shapes=(shapes,) if dynamic else None,
                verbose=options.verbose,
            )
            assert program is not None
            beside = _weight_bytes(flat) > _SIDECAR_BYTES
            if beside and path.suffix.lower() != ".onnx":
                raise UsageError(f"the weights need a second file beside {path.name}: end its name in .onnx.")
            program.save(str(path), external_data=beside)
        except (OSError, PodarError):
            raise  # a full disk; a name
        except Exception as error:  # torch.export and the exporter raise dozens of kinds
            raise PodarError(f"torch.onnx cannot export the model: {_reason(error)}.") from error
    _convert(path, options.opset)
    return _checked(path, dynamic=dynamic, writer="torch.export", opset=options.opset)


def _through_torchscript(flat: Flat, path: Path, options: WritingOptions) -> Written:
    if _weight_bytes(flat) > _SIDECAR_BYTES:
        raise PodarError("the TorchScript exporter cannot write more than 2 GB of weights.")
    with quiet_exporters(options.verbose):
        try:
            torch.onnx.export(
                flat.module,
                flat.inputs,
                str(path),
                dynamo=False,
                input_names=list(flat.input_names),
                output_names=list(flat.output_names),
                opset_version=options.opset,
            )
        except OSError:
            raise
        except Exception as error:  # also TypeError: a torch that has dropped this exporter
            raise PodarError(f"the TorchScript exporter cannot export the model: {_reason(error)}.") from error
    return _checked(path, dynamic=False, writer="TorchScript", opset=options.opset)


def _check_opset(opset: int) -> None:
    """Refuse what is no operator set of the installed onnx.

    **Raises:** `UsageError`.
    """
    newest = require("onnx", extra="onnx").defs.onnx_opset_version()
    if isinstance(opset, bool) or not isinstance(opset, int) or not OLDEST_OPSET <= opset <= newest:
        raise UsageError(
            f"opset is {opset!r}: give a whole number from {OLDEST_OPSET} to {newest}, the newest that the installed "
            "onnx knows."
        )


def _convert(path: Path, opset: int | None) -> None:
    """Bring a file to an older operator set than the exporter wrote, where onnx knows how."""
    onnx = require("onnx", extra="onnx")
    if opset is None or _opset_of(path) == opset:
        return
    try:
        converted = onnx.version_converter.convert_version(onnx.load(str(path)), opset).SerializeToString()
    except Exception as error:  # an operator that this set does not have, or that the converter does not know; 2 GB
        raise PodarError(f"the model cannot be written with opset {opset}: {first_line(error)}.") from error
    path.write_bytes(converted)


def _opset_of(path: Path) -> int:
    """The operator set that a file says it is written in."""
    model = require("onnx", extra="onnx").load(str(path), load_external_data=False)
    return next((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), 0)


def _checked(path: Path, *, dynamic: bool, writer: str, opset: int | None) -> Written:
    onnx = require("onnx", extra="onnx")
    if opset is not None and _opset_of(path) != opset:
        raise PodarError(
            f"the model cannot be written with opset {opset}: the {writer} exporter wrote {_opset_of(path)}; leave "
            "opset out, or ask for that one."
        )
    _strip(onnx, path)
    try:
        onnx.checker.check_model(str(path))
    except Exception as error:
        raise PodarError(f"the exported ONNX file is not valid: {first_line(error)}.") from error
    return Written(writer, dynamic)


def _strip(onnx: Any, path: Path) -> None:
    """Take the exporter's notes out of the file: stack traces with this machine's paths, names of Python classes."""
    model = onnx.load(str(path), load_external_data=False)
    graphs = [model.graph]
    for graph in graphs:
        for entry in (graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
            entry.ClearField("doc_string")
            entry.ClearField("metadata_props")
        for node in graph.node:
            for attribute in node.attribute:
                graphs += [attribute.g] if attribute.HasField("g") else attribute.graphs
    path.write_bytes(model.SerializeToString())


def _weight_bytes(flat: Flat) -> int:
    return sum(t.numel() * t.element_size() for t in (*flat.module.parameters(), *flat.module.buffers()))


def _reason(error: BaseException) -> str:
    """The first line of the error that started it: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return first_line(error)
