"""MODEL strings of Ultralytics, `yolo26n.yaml`, `yolo26n.pt`, best.pt; the folder `ultralytics` does the work."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from podar.libraries.register import library
from podar.libraries.yolo_names import architectures

if TYPE_CHECKING:
    from podar.workshops import Source, Workshop


def _accepts(model: str) -> bool:
    return model.endswith((".yaml", ".yml", ".pt")) or re.fullmatch(r"(yolo|rtdetr)[\w-]*", model) is not None


def _complete(incomplete: str) -> list[str]:
    if not incomplete or incomplete[0] not in "yr":
        return []
    return [name for name in architectures() if name.startswith(incomplete)]


def _workshop(model: str) -> Workshop:
    from podar.libraries.ultralytics.workshop import YoloWorkshop

    return YoloWorkshop()


@library(
    "yolo26n.yaml, yolo26n.pt",
    help="an architecture or a checkpoint of Ultralytics",
    accepts=_accepts,
    complete=_complete,
    workshop=_workshop,
    package="ultralytics",
    extra="ultralytics",
)
def open_model(model: str, model_args: dict[str, Any], trust: bool) -> Source:
    """An Ultralytics architecture with random weights (.yaml), or a checkpoint (.pt)."""
    from podar.libraries.ultralytics import models

    return models.open_model(model, model_args, trust)
