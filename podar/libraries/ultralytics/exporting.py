"""Exports a model by Ultralytics' own exporter, and checks that the file answers as the model does."""

from __future__ import annotations

import importlib.metadata
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from podar.errors import PodarError
from podar.formats import Exported
from podar.libraries.ultralytics.files import write_checkpoint
from podar.libraries.ultralytics.ready import make_ready, said

TOLERANCE = 1e-2  # of the largest output; runtimes fuse in other orders, and boxes are hundreds of pixels
_PACKAGE = {"onnx": "onnxruntime", "openvino": "openvino", "torchscript": "torch", "ncnn": "ncnn", "engine": "tensorrt"}


def formats() -> dict[str, str]:
    """Formats that the installed Ultralytics writes: name → why this machine cannot, or ""."""
    make_ready()
    from ultralytics.engine.exporter import export_formats

    missing = (
        ""
        if torch.cuda.is_available()
        else "TensorRT builds an engine for the NVIDIA GPU that it finds, and here is none"
    )
    return {name: missing if name == "engine" else "" for name in export_formats()["Argument"] if name != "-"}


def export(model: Any, folder: Path, stem: str, inputs: Tensor, format: str) -> Exported:
    """Write `folder/stem` in a format, loadable by `YOLO(…)`.

    **Raises:** `PodarError` where Ultralytics cannot write the format here, or the file answers otherwise.
    """
    make_ready()
    from ultralytics import YOLO, __version__

    side = int(inputs.shape[-1])
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
        checkpoint = write_checkpoint(model, Path(scratch) / f"{stem}.pt", {"imgsz": side})
        try:
            written = Path(YOLO(str(checkpoint)).export(format=format, imgsz=side, verbose=False))
        except Exception as error:
            raise PodarError(f"Ultralytics cannot export {format} here: {said(error)}") from error
        parity = _parity(checkpoint, written, inputs)
        if not parity <= TOLERANCE:
            raise PodarError(f"the {format} file disagrees with the model by {parity:.1e} of its largest output.")
        target = folder / written.name
        if target.is_dir():
            shutil.rmtree(target)
        shutil.move(str(written), target)
    files = tuple(sorted(p for p in target.rglob("*") if p.is_file())) if target.is_dir() else (target,)
    served = next((p for p in files if p.suffix == ".xml"), target)
    package = _PACKAGE.get(format)
    runtime = f"{package} {importlib.metadata.version(package)}" if package else format
    size = sum(path.stat().st_size for path in files)
    return Exported(served, format, runtime, f"ultralytics {__version__}", parity, size, ("images",), (), False, files)


def _parity(checkpoint: Path, written: Path, inputs: Tensor) -> float:
    """Largest difference, as a fraction of the largest output; rows of boxes may come in another order."""
    from ultralytics.nn.autobackend import AutoBackend

    wanted, got = (
        _first(AutoBackend(model=str(path), device=torch.device("cpu"))(inputs)) for path in (checkpoint, written)
    )
    if wanted.shape != got.shape:
        return float("inf")
    scale = float(wanted.abs().max().clamp_min(1e-6))
    if wanted.dim() == 3 and wanted.shape[1] <= 300:  # the best boxes, sorted by scores that may be all but equal
        best = wanted[0][:20]
        return max(float((got[0] - row).abs().amax(1).min()) for row in best) / scale
    return float((wanted - got).abs().max()) / scale


def _first(outputs: Any) -> Tensor:
    while isinstance(outputs, (list, tuple)):
        outputs = outputs[0]
    return torch.as_tensor(outputs).float().cpu()
