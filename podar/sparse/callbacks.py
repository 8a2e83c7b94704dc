"""Sparse training inside Lightning, transformers' Trainer and Ultralytics: one callback each."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from typing import Any

from torch import nn

from podar.errors import PodarError, require
from podar.model.torchvision_operators import import_torchvision
from podar.sparse.keeper import Keeper

Make = Callable[[nn.Module], Keeper]
"""Makes the keeper of the model that a trainer really trains: `lambda model: podar.sparse.gradual(model, 0.9)`."""


def lightning_callback(make: Make) -> Any:
    """A callback for `lightning.Trainer(callbacks=[...])`.

    **Raises:** `PodarError`: neither lightning nor pytorch-lightning is installed.

    ```python
    Trainer(callbacks=[lightning_callback(lambda model: podar.sparse.gradual(model, 0.9))])
    ```
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

        def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
            self.hold(trainer)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            # Before a moving average is put into the model, or after: whichever callback comes first.
            self.hold(trainer)

        def hold(self, trainer: Any) -> None:
            """Zero what is masked in the model and in the moving averages of other callbacks."""
            if self.keeper is not None:
                self.keeper.apply()
                for callback in trainer.callbacks:
                    average = getattr(callback, "_average_model", None)
                    if isinstance(average, nn.Module):
                        self.keeper.apply(getattr(average, "module", average))

    return Sparse()


def transformers_callback(make: Make) -> Any:
    """A callback for `transformers.Trainer(callbacks=[...])`.

    **Raises:** `PodarError`: transformers is not installed.
    """
    _mend_torchvision()
    base = require("transformers", "transformers").TrainerCallback

    class Sparse(base):
        """Attached when training begins; a resumed training begins with the zeros of its checkpoint."""

        keeper: Keeper | None = None

        def on_train_begin(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            keeper = self.keeper = make(parts["model"])
            keeper.attach(parts["optimizer"], lambda: (state.global_step + 1) / state.max_steps)

        def on_train_end(self, args: Any, state: Any, control: Any, **parts: Any) -> None:
            if self.keeper is not None:  # the best weights, loaded at the end, may be from a time of fewer zeros
                self.keeper.apply()

    return Sparse()


def follow_ultralytics(yolo: Any, make: Make) -> None:
    """Sparsify a YOLO while `yolo.train(...)` runs, and the moving average of its weights, which its checkpoints hold.

    **Raises:** `PodarError`: at the end of a training on several devices: Ultralytics starts its processes without
    callbacks.

    ```python
    yolo = ultralytics.YOLO("yolo26n.yaml")
    follow_ultralytics(yolo, lambda model: podar.sparse.gradual(model, 0.8, protect=["model.23"]))
    yolo.train(data="coco8.yaml", epochs=10)
    ```
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

    def end(trainer: Any) -> None:
        if getattr(trainer, "ddp", False) and not kept:
            raise PodarError(
                "nothing was made sparse: Ultralytics starts the processes of several devices without callbacks; "
                "train on one, such as device=0"
            )

    yolo.add_callback("on_train_start", start)
    yolo.add_callback("teardown", end)
    yolo.add_callback("on_train_batch_end", after_batch)


def _mend_torchvision() -> None:
    """Both libraries import torchvision where it is installed, and break where it does not match torch."""
    if importlib.util.find_spec("torchvision") is not None:
        import_torchvision()
