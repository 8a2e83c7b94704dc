"""Silences torch's exporters, which warn and log pages about what podar finds out by itself."""

from __future__ import annotations

import contextlib
import linecache
import logging
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_exporters(verbose: bool = False) -> Iterator[None]:
    """Within this context exporters give no warnings, and log only crashes. `verbose`: they print as usual."""
    if verbose:
        yield
        return
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels):
            logger.setLevel(level)


@contextlib.contextmanager
def sources_forgotten() -> Iterator[None]:
    """Forget afterwards the sources of the graphs that torch.fx compiles within.

    torch.fx keeps the source of every graph of this process, twice, so that tracebacks can show its lines. An export
    compiles a dozen graphs that nobody ever sees again.
    """
    from torch.fx import graph_module

    kept = getattr(getattr(graph_module, "_loader", None), "eval_cache", None)
    before = set(kept or ())
    try:
        yield
    finally:
        for key in set(kept or ()) - before:
            if key.startswith("<eval_with_key>"):
                kept.pop(key, None)  # type: ignore[union-attr]
                linecache.cache.pop(key, None)
