"""OpenVINO files (.xml with .bin beside it): converted from our ONNX export."""

from __future__ import annotations

from pathlib import Path

from podar.errors import PodarError, UsageError, first_line, require
from podar.formats.flat import Flat
from podar.formats.onnx import write_onnx
from podar.formats.registry import Attempt, WritingOptions, Written, file_format


@file_format(
    "openvino", suffix=".xml", runtime="openvino", packages=("onnx", "onnxscript"), extra="onnx",
    help="Intel processors and graphics",
)  # fmt: skip
def write_openvino(flat: Flat, path: Path, options: WritingOptions) -> list[Attempt]:
    """Ways to write an OpenVINO file: those of the ONNX export, each then converted."""
    if path.suffix != ".xml":
        raise UsageError(f"OpenVINO opens files that end in .xml only: write {path.with_suffix('.xml').name}.")
    step = path.with_suffix(".onnx")
    return [lambda attempt=attempt: _converted(attempt(), step, path) for attempt in write_onnx(flat, step, options)]


def _converted(written: Written, step: Path, path: Path) -> Written:
    ov = require("openvino", extra="openvino")
    try:
        ov.save_model(ov.convert_model(str(step)), str(path), compress_to_fp16=False)
    except Exception as error:  # its errors share no base class
        raise PodarError(f"OpenVINO cannot convert the model: {first_line(error)}.") from error
    return written
