"""Names of the architectures that the installed Ultralytics builds, read from its files without importing it."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path


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
