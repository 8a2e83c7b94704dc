"""MODEL strings of Ultralytics, `yolo26n.yaml`, `yolo26n.pt`, best.pt; the folder `ultralytics` does the work."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from podar.libraries import Blueprint, model_source

YAML = (".yaml", ".yml")


def _accepts(model: str) -> bool:
    return model.endswith((*YAML, ".pt")) or re.fullmatch(r"(yolo|rtdetr)[\w-]*", model) is not None


def _complete(incomplete: str) -> list[str]:
    if not incomplete or incomplete[0] not in "yr":
        return []
    return [name for name in architectures() if name.startswith(incomplete)]


def _formats() -> dict[str, str]:
    from podar.libraries.ultralytics.exporting import formats

    return formats()


def _check_settings(settings: Mapping[str, Any]) -> None:
    from podar.libraries.ultralytics.training import check_settings

    check_settings(settings)


@model_source(
    "yolo26n.yaml, yolo26n.pt", accepts=_accepts, complete=_complete, formats=_formats, check_settings=_check_settings
)
def blueprint(model: str, model_args: dict[str, Any], trust: bool) -> Blueprint:
    """An Ultralytics architecture with random weights (.yaml), or a checkpoint (.pt).

    `model_args` of an architecture: `nc` (or `num_classes`) and `ch`, the channels of the image.

    **Raises:** `PodarError` for an unknown name (with the nearest one), a missing file, or a checkpoint that needs
    more than Ultralytics' and torch's own classes, without `trust`.
    """
    from podar.libraries.ultralytics import models

    if model.endswith(".pt"):
        return models.from_checkpoint(model, model_args, trust)
    return models.from_yaml(model if model.endswith(YAML) else f"{model}.yaml", model_args, trust)


def architectures() -> list[str]:
    """Every architecture that the installed Ultralytics builds by name: `yolo26n.yaml`, `yolo11s-seg.yaml`, …

    Read from its files, without importing it: shell completion asks too. Empty where it is not installed.
    """
    import yaml

    package = importlib.util.find_spec("ultralytics")
    if package is None or package.origin is None:
        return []
    names: list[str] = []
    for path in sorted((Path(package.origin).parent / "cfg" / "models").rglob("*.yaml")):
        scales = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("scales")
        numbered = re.fullmatch(r"(yolo(?:e-|v)?\d+)(-.*)?", path.stem)  # yolov10n.yaml stands for itself
        if scales and numbered:
            names += [f"{numbered[1]}{scale}{numbered[2] or ''}.yaml" for scale in scales]
        else:
            names.append(path.name)
    return sorted(set(names))
