"""Imports Ultralytics without its messages and downloads, and puts what its errors say on one line."""

from __future__ import annotations

import os
import re

from podar.errors import require
from podar.model.torchvision_operators import import_torchvision
from podar.trust.offline import ultralytics_offline


def make_ready() -> None:
    """Import Ultralytics so that it neither installs packages nor prints; later imports of its parts are plain ones.

    **Raises:** `PodarError` when it is not installed.
    """
    os.environ.setdefault("YOLO_AUTOINSTALL", "false")
    os.environ.setdefault("YOLO_VERBOSE", "false")
    import_torchvision()
    with ultralytics_offline():
        require("ultralytics", extra="ultralytics")
        require("ultralytics.utils", extra="ultralytics")  # which asks for the network


def said(error: BaseException) -> str:
    """The words of an error of Ultralytics as one line, without its colours, signs and links."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error) or type(error).__name__)
    text = text.encode("ascii", "ignore").decode()
    text = " ".join(text.split()).partition(" Note dataset download")[0].partition(" See http")[0]
    text = text.partition(" torch.cuda.is_available")[0]  # a page about graphics cards after "use device=cpu"
    text = text.replace("ignoring corrupt image/label: ", "")
    return text[:300].rstrip(". ") + "."
