"""Sparse training inside Lightning, transformers' Trainer and Ultralytics: one callback each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import nn

from podar.compat.torchvision import import_torchvision
from podar.errors import PodarError, require
from podar.sparse.training import Keeper

Make = Callable[[nn.Module], Keeper]
"""Makes the keeper of the model that a trainer really trains: `lambda model: podar.sparse.gradual(model, 0.9)`."""


def lightning_callback(make: Make) -> Any:
    """A callback for `lightning.Trainer(callbacks=[...])`.

    Raises:
        PodarError: neither lightning nor pytorch-lightning is installed.

    Example:
        >>> Trainer(callbacks=[lightning_callback(lambda model: podar.sparse.gradual(model, 0.9))])
    """
    _mend_torchvision()
    for name in ("lightning.pytorch", "pytorch_lightning"):
        try:
            base = importlib.import_module(name).Callback
            break
        except ModuleNotFoundError:
            continue
    else:
        raise PodarError('this callback needs Lightning, which is not installed: run pip install "podar[lightning]"')

    class Sparse(base):
        """Attached when training begins, to every optimizer."""

        keeper: Keeper | None = None

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            keeper = self.keeper = make(pl_module)
            total = trainer.estimated_stepping_batches
            for optimizer in trainer.optimizers:
                keeper.attach(optimizer, lambda: (trainer.global_step + 1) / total)

    return Sparse()


def transformers_callback(make: Make) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])`.

    Raises:
        PodarError: transformers is not installed.
    """
    _mend_torchvision()
    base = require("transformers", "transformers").TrainerCallback

    class Sparse(base):
        """Attached when training begins; a resumed training begins with the zeros of its checkpoint."""

        keeper: Keeper | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            keeper = self.keeper = make(parts["model"])
            keeper.attach(parts["optimizer"], lambda: (state.global_step + 1) / state.max_steps)

    return Sparse()


def follow_ultralytics(yolo: Any, make: Make) -> None:
    """Sparsify a YOLO while `yolo.train(...)` runs, and its moving average with it, from which the checkpoints are.

    Example:
        >>> yolo = ultralytics.YOLO("yolo26n.yaml")
        >>> follow_ultralytics(yolo, lambda model: podar.sparse.gradual(model, 0.8, protect=["model.23"]))
        >>> yolo.train(data="coco8.yaml", epochs=10)
    """
    kept: list[Keeper] = []

    def start(trainer: Any) -> None:
        model = getattr(trainer.model, "module", trainer.model)
        kept[:] = [make(model)]
        batches = [0]
        trainer.podar_batches = batches
        trainer.podar_total = total = trainer.epochs * len(trainer.train_loader)
        kept[0].attach(trainer.optimizer, lambda: min(1.0, (batches[0] + 1) / total))

    def after_batch(trainer: Any) -> None:
        trainer.podar_batches[0] += 1
        # It gathers gradients over many batches, so the last steps of the optimizer may come long before the end.
        kept[0].step(min(1.0, trainer.podar_batches[0] / trainer.podar_total), trainer.optimizer)
        if trainer.ema is not None:
            kept[0].apply(trainer.ema.ema)

    yolo.add_callback("on_train_start", start)
    yolo.add_callback("on_train_batch_end", after_batch)


def _mend_torchvision() -> None:
    """Both libraries import torchvision where it is installed, and break where it does not match torch."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
