"""OpenVINO files (.xml with .bin beside it): converted from our ONNX export, reloaded in OpenVINO in float32."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from podar.errors import PodarError, UsageError, first_line, require
from podar.formats.flat import Flat
from podar.formats.onnx import write_onnx
from podar.formats.registry import Attempt, Options, Reloaded, file_format


@file_format("openvino", suffix=".xml", sidecar=".bin")
def write_openvino(flat: Flat, path: Path, options: Options) -> list[Attempt]:
    """Ways to write an OpenVINO file: those of the ONNX export, each then converted."""
    require("openvino", extra="openvino")
    if path.suffix != ".xml":
        raise UsageError(f"OpenVINO opens files that end in .xml only: write {path.with_suffix('.xml').name}.")
    step = path.with_suffix(".onnx")
    return [
        lambda attempt=attempt: _convert(attempt(), flat, step, path) for attempt in write_onnx(flat, step, options)
    ]


def _convert(written: Reloaded, flat: Flat, step: Path, path: Path) -> Reloaded:
    ov = require("openvino", extra="openvino")
    try:
        ov.save_model(ov.convert_model(str(step)), str(path), compress_to_fp16=False)
        # float32: on processors with bfloat16 OpenVINO would round to it, and the check would see that.
        compiled = ov.Core().compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    except Exception as error:  # its errors share no base class
        raise PodarError(f"OpenVINO cannot convert the model: {first_line(error)}.") from error
    kept = {name for port in compiled.inputs for name in port.get_names()}
    ports = [compiled.output(name) for name in flat.output_names]

    def run(tensors: Sequence[Tensor]) -> list[Tensor]:
        feed = {name: t.contiguous().numpy() for name, t in zip(flat.input_names, tensors) if name in kept}
        results = compiled(feed)
        return [torch.from_numpy(results[port].copy()) for port in ports]

    return Reloaded(run, f"openvino {ov.__version__.partition('-')[0]}", written.dynamic_batch, written.writer)
