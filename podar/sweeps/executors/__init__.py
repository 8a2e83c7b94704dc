"""Who carries out the runs of a sweep: one file an executor, registered by name and found by being in this folder."""

from __future__ import annotations

import importlib
import pkgutil

from podar.sweeps.executors.register import EXECUTORS, Executor, Outcome, Task, executor, known

__all__ = ["EXECUTORS", "Executor", "Outcome", "Task", "executor", "known"]

for _module in pkgutil.iter_modules(__path__):
    if not _module.name.startswith("_"):
        importlib.import_module(f"{__name__}.{_module.name}")
