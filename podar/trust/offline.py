"""No network unless asked: what libraries would tell their makers is switched off before they are imported.

ONNX Runtime and Hugging Face's hub read an environment variable when they are loaded; OpenVINO's converter does without
its package of telemetry where that cannot be imported. Whoever set a variable, or imported one of them before podar,
keeps it so. Downloads that are asked for by name (`timm:… --model-arg pretrained=True`, yolo26n.pt) stay possible.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_VARIABLES = {"ORT_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_ABSENT = "openvino_telemetry"


def switch_telemetry_off() -> None:
    """Before any of these libraries is imported; it imports none of them."""
    for name, value in _VARIABLES.items():
        os.environ.setdefault(name, value)
    modules: Any = sys.modules
    modules.setdefault(_ABSENT, None)  # an import then fails as that of a package which is not installed


@contextmanager
def ultralytics_offline() -> Iterator[None]:
    """While Ultralytics is imported: it looks up two hosts then, to know whether it may send and fetch things."""
    before = os.environ.get("YOLO_OFFLINE")
    os.environ["YOLO_OFFLINE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["YOLO_OFFLINE"]
        else:
            os.environ["YOLO_OFFLINE"] = before
