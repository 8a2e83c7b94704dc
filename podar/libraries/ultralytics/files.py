"""pruned.pt: a checkpoint of Ultralytics' own classes with changed shapes, which plain Ultralytics loads and uses."""

from __future__ import annotations

import copy
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from torch import nn

from podar.errors import PodarError
from podar.files import atomic_path, open_for_torch
from podar.libraries.ultralytics.quantizing import QUANTIZATION
from podar.libraries.ultralytics.ready import make_ready
from podar.libraries.ultralytics.sealing import is_pruned, seal

NAME = "pruned.pt"


def save_pruned(model: nn.Module, path: str | Path, settings: dict[str, Any] | None = None) -> Path:
    """Write a pruned model as Ultralytics writes its checkpoints: in half precision, with its settings.

    **Arguments:**

    - `model`: pruned by podar; its plan goes along as a JSON string, its configuration is sealed.
    - `path`: the file to write, under a temporary name first.
    - `settings`: what it was trained with, as in Ultralytics' args.yaml; imgsz and task serve as defaults later.

    **Raises:** `PodarError` where the model is not pruned, or no model of Ultralytics.

    ```python
    model = YOLO("yolo26n.pt").model
    podar.libraries.ultralytics.prune(model, torch.zeros(1, 3, 640, 640), "macs=0.6")
    podar.libraries.ultralytics.save_pruned(model, "pruned.pt")
    ```
    """
    if not is_pruned(model):
        raise PodarError(f"{path} would not hold a pruned model: prune it first.")
    return write_checkpoint(seal(copy.deepcopy(model)), path, settings)


def write_checkpoint(model: nn.Module, path: str | Path, settings: dict[str, Any] | None = None) -> Path:
    """Write a model, pruned or not, as Ultralytics writes its checkpoints; arguments as of `save_pruned`."""
    make_ready()
    import ultralytics
    from ultralytics.utils import DEFAULT_CFG_DICT

    saved: Any = copy.deepcopy(model).half().eval()
    quantization = saved.__dict__.pop(QUANTIZATION, None)
    saved.criterion = None
    for parameter in saved.parameters():
        parameter.requires_grad = False
    own = getattr(model, "args", None) or {}
    asked = {
        **(own if isinstance(own, dict) else vars(own)),
        "task": getattr(model, "task", "detect"),
        **(settings or {}),
    }
    train_args = {key: value for key, value in asked.items() if key in DEFAULT_CFG_DICT}
    saved.args = train_args
    content = {
        "epoch": -1,
        "best_fitness": None,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "model": saved,
        "train_args": train_args,
        "train_metrics": {},
        "date": datetime.now().astimezone().isoformat(),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
    }
    if quantization is not None:  # Ultralytics' own form: load_checkpoint puts the fake quantizers back
        content["modelopt"] = quantization
    with atomic_path(Path(path)) as temporary, open_for_torch(temporary) as file:
        torch.save(content, file)
    return Path(path)
