"""`podar.finetune`: the public verb, its arguments and their checks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from podar.errors import UsageError
from podar.model.modes import layout_put_back, modes_put_back
from podar.recover.feeding import Part, feed
from podar.recover.history import History
from podar.recover.metrics import Metrics
from podar.recover.objectives import Classes, Objective, Task
from podar.recover.optimizers import Schedule, schedule_for
from podar.recover.precision import check_precision
from podar.recover.training import Course, Evaluate, Listener, MaskKeeper, Progress, Training


def finetune(
    model: nn.Module,
    data: Any,
    *,
    loss: Callable[[Any, Any], Any] | str | Objective | None = None,
    metrics: Any = (),
    evaluate: Evaluate | None = None,
    epochs: int = 5,
    lr: float | None = None,
    optimizer: Any = None,
    schedule: str | Schedule = "cosine",
    batch_size: int = 128,
    accumulate: int = 1,
    seconds: float | None = None,
    label_smoothing: float = 0.1,
    teacher: nn.Module | None = None,
    checkpoint: str | Path | None = None,
    precision: str | None = None,
    chosen: Callable[[str], None] | None = None,
    seed: int = 0,
    skip: int = 0,
    keeper: MaskKeeper | None = None,
    after_step: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
) -> History:
    """Train a model in place, with a warm-up and a cosine schedule: a classifier, or with `loss` whatever you have.

    Under `accelerate launch` or `torchrun` every process takes its part of each batch. docs/training.md has examples.

    **Arguments:**

    - `model`: any module; its mode is kept. Without `loss` it must give logits [N, classes].
    - `data`: a `podar.data.Dataset` (its test split is never looked at), a training `Split`, a data set of samples, or
      batches that can be read again and again, such as a DataLoader. Without `loss` they are (inputs, labels), labels
      class numbers [N] or shares of each class [N, classes]; with a teacher there may be none. With `loss` they are of
      any form, and so are the targets. docs/data.md says how batches are read.
    - `loss`: a function of (outputs, targets) that gives a scalar: outputs as the model returns them, but for objects
      with `logits`, of which those. "model": what the model itself returns as `.loss` when it is given the whole batch.
      None: cross entropy. (Or an object with the methods of `podar.recover.objectives.Objective`.)
    - `metrics`: torchmetrics objects, or functions of (outputs, targets) that give a number, one, several, or a dict by
      name. They stand in each epoch of the History: measured on the validation part where the data have one, else on
      the training batches as they go by.
    - `evaluate`: called with the model in eval mode after every epoch; gives a number, which the History calls
      `evaluation`, or a dict of numbers.
    - `lr`: the highest learning rate; None: 0.05 for SGD, 5e-4 for others, for batches of 128 and in proportion.
    - `optimizer`: a name or class of torch.optim, a function that makes one from the parameters, or one that holds them
      (whose groups may have rates of their own). None: SGD with momentum, AdamW for models with layer norms only.
    - `schedule`: "cosine", "linear", "constant", or a function from the share of the training that is done to the share
      of the learning rate; a warm-up of 5 % goes before it.
    - `batch_size`: samples in a batch, over all processes together, where `data` are not batches already.
    - `accumulate`: so many batches make one step of the optimizer, with the mean of their losses.
    - `seconds`: a wall-clock budget: the schedule ends with it where it comes before the last epoch.
    - `label_smoothing`: share of each label that is spread over all classes; not where `loss` is given.
    - `teacher`: a model whose answers are learned too (Hinton et al. 2015); it is not changed.
    - `checkpoint`: a file, renewed after every epoch; where it exists the training goes on from it.
    - `precision`: "fp32" or "bf16" (with ", channels_last": in that layout); None: the fastest of a few timed steps, so
      that the same seed may give two models. Weights stay fp32, and come back in the layout that they had.
    - `chosen`: called with the precision before the first step, so that the caller may ask for the same next time.
    - `skip`: steps to leave out at the beginning, with their pictures and their part of the schedule: for a model that
      has them behind it.
    - `keeper`: keeps the model sparse, or makes it so step by step; the checkpoint holds its masks.
    - `after_step(done, total)`: called after every step of the optimizer, with the gradients still there.
    - `progress(stage, done, total, numbers)`: called as the steps go by.

    **Returns:** History.

    **Raises:** `UsageError` for options that make no sense. `PodarError` where the loss is no longer finite (the model
    is then as it was at its last good step), the loss or a metric cannot be computed, the model is no classifier and
    there is no `loss`, or the checkpoint is another training's.

    ```python
    podar.finetune(model, podar.data.load("fashion-mnist-demo"), epochs=3, teacher=dense)
    podar.finetune(regressor, loader, loss=torch.nn.functional.mse_loss, metrics={"mae": torch.nn.functional.l1_loss})
    ```
    """
    _check(epochs, batch_size, seconds, label_smoothing, lr, accumulate)
    check_precision(precision)
    if loss is not None and teacher is not None:
        raise UsageError("a teacher teaches classifiers, and loss= is another task: leave one away, or podar.distill.")
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("the model has no parameter that can be trained: set requires_grad on some.")
    accelerator = Accelerator()
    device = accelerator.device
    objective = _objective(loss, teacher, label_smoothing, device)
    measured = Metrics(metrics, device)
    model.to(device)
    part = Part(batch_size, seed, device, accelerator.process_index, accelerator.num_processes)
    batches = feed(data, lambda given: objective.read(given, model), part, objective.classes or bool(measured))
    course = Course(epochs, lr, batch_size, seconds, seed, skip, accumulate, optimizer, schedule_for(schedule))
    listener = Listener(chosen, after_step, progress, evaluate, measured)
    with torch.random.fork_rng(), modes_put_back(model), layout_put_back(model):
        training = Training(accelerator, model, batches, part, objective, course, listener, keeper)
        training.check()
        return training.run(None if checkpoint is None else Path(checkpoint), precision)


def _objective(loss: Any, teacher: nn.Module | None, smoothing: float, device: torch.device) -> Objective:
    if loss is None:
        return Classes(teacher, smoothing, device)
    return loss if isinstance(loss, Objective) else Task(loss, device)


def _check(
    epochs: int, batch_size: int, seconds: float | None, smoothing: float, lr: float | None, accumulate: int
) -> None:
    if epochs < 1:
        raise UsageError(f"epochs={epochs} trains nothing: give 1 or more.")
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} makes no batch: give 1 or more.")
    if accumulate < 1:
        raise UsageError(f"accumulate={accumulate} makes no step: give 1 or more.")
    if seconds is not None and seconds <= 0:
        raise UsageError(f"seconds={seconds:g} leaves no time: give more than 0.")
    if not 0 <= smoothing < 1:
        raise UsageError(f"label_smoothing={smoothing:g} is not between 0 and 1.")
    if lr is not None and lr <= 0:
        raise UsageError(f"lr={lr:g} learns nothing: give more than 0.")
