"""What the command line lets Ultralytics do in its own way: cutting, training, validation, export, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from podar.formats import Exported
from podar.graph import Graph, trace
from podar.libraries import Library, LibraryData
from podar.libraries._inputs import random_images
from podar.libraries.ultralytics.cutting import fused_cost, kept_outputs, prune
from podar.libraries.ultralytics.files import NAME, save_pruned, write_checkpoint
from podar.libraries.ultralytics.quantizing import recall_quantization
from podar.libraries.ultralytics.sealing import is_pruned


def _trace(model: nn.Module, inputs: Any) -> Graph:
    return trace(model, inputs, outputs=kept_outputs(model, inputs))


def _figures(model: nn.Module, inputs: Any) -> dict[str, Any]:
    """What is deployed: batch norms folded away, and one of two heads dropped."""
    fused = fused_cost(model, inputs)
    return {"fused_params": fused.params, "fused_macs": fused.macs}


def _inputs(model: Any, side: int) -> Any:
    channels = int(model.yaml.get("channels", model.yaml.get("ch", 3)) or 3)
    return random_images(channels, side, side).sigmoid()


def _save(model: nn.Module, folder: Path) -> None:
    settings: dict[str, Any] = getattr(model, "trained_with", {})
    write = save_pruned if is_pruned(model) else write_checkpoint
    recall_quantization(model, folder)
    write(model, folder / NAME, settings)


def _export(model: nn.Module, folder: Path, stem: str, inputs: Any, format: str) -> Exported:
    from podar.libraries.ultralytics.exporting import export

    if stem == "model":  # the trained one of a run; dense.onnx stands beside it
        recall_quantization(model, folder)
    return export(model, folder, stem, inputs, format)


def _blocks(model: Any) -> dict[str, str]:
    """As in Ultralytics' own table of layers: `model.6` is `6 C3k2`."""
    return {f"model.{k}": f"{k} {type(layer).__name__}" for k, layer in enumerate(model.model)}


def _open_data(model: Any, spec: str, side: int | None) -> LibraryData | None:
    own = spec.endswith((".yaml", ".yml")) or (getattr(model, "task", "") == "classify" and Path(spec).is_dir())
    if not own:
        return None
    from podar.libraries.ultralytics.datasets import open_data

    return open_data(model, spec, side)


LIBRARY = Library(_trace, prune, _figures, _inputs, _save, _export, _blocks, _open_data)
