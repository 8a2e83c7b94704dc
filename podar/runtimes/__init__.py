"""What runs a model where it is deployed: one file a runtime, each opening a model file as a `Session`.

`podar.engine` adds the sparse engine's runtime to the register. Nothing here imports torch before a model of torch is
opened: the child process whose memory is measured opens ONNX files without it.
"""

from __future__ import annotations

import importlib
import pkgutil

from podar.runtimes.opening import open_file, open_in, readers
from podar.runtimes.register import RUNTIMES, Runtime, runtime
from podar.runtimes.session import Port, Ready, Session

__all__ = ["RUNTIMES", "Port", "Ready", "Runtime", "Session", "open_file", "open_in", "readers", "runtime"]

# Every file of this folder is imported, so that a new runtime registers itself by being there.
for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")
