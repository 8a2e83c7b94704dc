"""Carries what Ultralytics' quantization-aware training (`quantize=8`) learned along with a model of plain layers.

Its layers that round are classes made at run time, which neither podar's surgery nor its files know. As in Ultralytics'
own checkpoints they travel as data: a conversion state and the ranges of every quantizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from podar.libraries.ultralytics.caches import check_unpickling
from podar.trust.plain import read_yaml

QUANTIZATION = "podar_quantization"  # attribute of a model; no parameter or buffer


def remember_quantization(model: Any, trained: Any) -> None:
    """Keep on `model` what quantization-aware training put into `trained`, if it did."""
    from ultralytics.utils import torch_utils

    read = getattr(torch_utils, "qat_state", None)  # none in older releases, which do not train so
    state = None if read is None else read(trained)
    model.__dict__.pop(QUANTIZATION, None)
    if state is not None:
        setattr(model, QUANTIZATION, state)


def recall_quantization(model: Any, folder: Path) -> None:
    """The same for a model that was loaded from podar's own files, from the best weights in its run folder."""
    best, arguments = folder / "weights" / "best.pt", folder / "args.yaml"
    if QUANTIZATION in model.__dict__ or not best.is_file() or not arguments.is_file():
        return
    kept = read_yaml(arguments)
    if not isinstance(kept, dict) or str(kept.get("quantize")) not in ("8", "int8"):
        return
    check_unpickling(best)
    state = torch.load(best, map_location="cpu", weights_only=False).get("modelopt")
    if state is not None:
        setattr(model, QUANTIZATION, state)
