"""Ultralytics' hyperparameter search over a pruned model: it trains each trial by a command that knows no trainer."""

from __future__ import annotations

from typing import Any

from ultralytics.engine import trainer as engine

from podar.errors import PodarError
from podar.libraries.ultralytics.trainers import Trainer


def tune(model: Any, iterations: int, settings: dict[str, Any]) -> None:
    """Run `model.tune` with trials that podar's trainer trains."""
    original = getattr(engine, "MultiTrainer", None)
    if original is None:
        raise PodarError("this Ultralytics tunes by a command that rebuilds the model: install 8.4.190 or newer.")

    def with_trainer(_: Any, args: Any, trial: Any, _callbacks: Any = None) -> Any:
        return original(Trainer, args, trial, _callbacks)

    engine.MultiTrainer = with_trainer  # pyright: ignore[reportAttributeAccessIssue]  # looked up at each search
    try:
        model.tune(iterations=iterations, **settings)
    finally:
        engine.MultiTrainer = original
