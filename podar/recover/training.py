"""Fine-tunes and distils classifiers, on Accelerate: one process or many, CPU or GPU, the same lines."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from podar.errors import PodarError, UsageError
from podar.model.batches import Batch, run
from podar.model.modes import layout_put_back, modes_put_back
from podar.recover import checkpoints
from podar.recover.evaluation import accuracy, logits_of
from podar.recover.feeding import Feed, feed
from podar.recover.history import History
from podar.recover.losses import check_outputs, classifier_loss
from podar.recover.precision import Precision, channels_last, check_precision, fastest_precision


class MaskKeeper(Protocol):
    """Holds masks while a model trains: `podar.sparse.gradual(model, 0.9)`, `rigl`, `keep`."""

    def step(self, share: float, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Called after every step of the optimizer with the share of the training that is done, 0 to 1."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """What a checkpoint must hold of it."""
        ...

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a checkpoint."""
        ...


Progress = Callable[[str, int, int, dict[str, float]], None]

WARM_UP = 0.05  # share of all steps
MOMENTUM, DECAY = 0.9, 5e-4
CLIP = 5.0  # norm of the gradient: a freshly cut network makes large ones
LOOK = 10  # steps between looks at the loss, each of which waits for the device


def finetune(
    model: nn.Module,
    data: Any,
    *,
    epochs: int = 5,
    lr: float | None = None,
    batch_size: int = 128,
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
    """Train a classifier in place: SGD with momentum (AdamW where it has layer norms only), warm-up, cosine schedule.

    Under `accelerate launch` or `torchrun` every process takes its part of each batch.

    **Arguments:**

    - `model`: any module that gives logits [N, classes]; its mode is kept.
    - `data`: a `podar.data.Dataset` (its test split is never looked at), a training `Split`, a data set of samples, or
      batches of (inputs, labels) that can be read again and again, such as a DataLoader. Labels are class numbers [N],
      or shares of each class [N, classes]; with a teacher there may be none. docs/data.md says how batches are read.
    - `lr`: the highest learning rate; None: 0.05 for SGD, 5e-4 for AdamW, for batches of 128 and in proportion.
    - `batch_size`: pictures a step, over all processes together.
    - `seconds`: a wall-clock budget: the schedule ends with it where it comes before the last epoch.
    - `label_smoothing`: share of each label that is spread over all classes.
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
    is then as it was after its last good epoch), the model is no classifier, or the checkpoint is another training's.

    ```python
    history = podar.finetune(model, podar.data.load("fashion-mnist-demo"), epochs=3, teacher=dense)
    ```
    """
    _check(epochs, batch_size, seconds, label_smoothing, lr, precision)
    if not any(p.requires_grad for p in model.parameters()):
        raise UsageError("the model has no parameter that can be trained: set requires_grad on some.")
    accelerator = Accelerator()
    model.to(accelerator.device)
    batches = feed(
        data, model, batch_size, seed, accelerator.device, accelerator.process_index, accelerator.num_processes,
        taught=teacher is not None,
    )  # fmt: skip
    file = None if checkpoint is None else Path(checkpoint)
    plan = _Course(epochs, lr, batch_size, seconds, label_smoothing, seed, skip)
    training = _Training(accelerator, model, batches, teacher, plan, keeper)
    with torch.random.fork_rng(), modes_put_back(model), layout_put_back(model):
        training.check_labels()
        return training.run(file, precision, chosen, after_step, progress)


def distill(student: nn.Module, teacher: nn.Module, data: Any, **options: Any) -> History:
    """Train `student` on the answers of `teacher` and on the labels (Hinton et al. 2015): `finetune` with a teacher.

    `data` is what `finetune` takes; where its batches are inputs alone, the teacher's answers are all that is learned.

    **Raises:** as `finetune`; `UsageError` where the student is the teacher.

    ```python
    podar.distill(pruned, dense, podar.data.load("fashion-mnist-demo"), epochs=5)
    ```
    """
    if student is teacher:
        raise UsageError("student and teacher are the same object: build the teacher anew, or copy.deepcopy it.")
    return finetune(student, data, teacher=teacher, **options)


@dataclass(frozen=True)
class _Course:
    """How long and how fast a training goes: arguments of `finetune`."""

    epochs: int
    lr: float | None
    batch_size: int
    seconds: float | None
    label_smoothing: float
    seed: int
    skip: int


class _Training:
    """One call of `finetune`: its parts, and what is carried from epoch to epoch.

    **Raises:** `UsageError` where more steps are to be skipped than there are.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        batches: Feed,
        teacher: nn.Module | None,
        course: _Course,
        keeper: MaskKeeper | None,
    ) -> None:
        self.accelerator, self.model, self.batches, self.course, self.keeper = (
            accelerator,
            model,
            batches,
            course,
            keeper,
        )
        self.teacher = None if teacher is None else copy.deepcopy(teacher).to(accelerator.device).eval()
        self.total = course.epochs * batches.steps
        if not 0 <= course.skip < self.total:
            raise UsageError(f"skip={course.skip} leaves none of the {self.total} steps of this training.")
        adaptive = _wants_adam(model)
        self.lr = course.lr if course.lr is not None else (5e-4 if adaptive else 0.05) * course.batch_size / 128
        weights = [p for p in model.parameters() if p.requires_grad]
        groups = [  # norms and biases are not decayed
            {"params": [p for p in weights if p.dim() > 1], "weight_decay": 0.05 if adaptive else DECAY},
            {"params": [p for p in weights if p.dim() <= 1], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer: torch.optim.Optimizer = (
            torch.optim.AdamW(groups, self.lr)
            if adaptive
            else torch.optim.SGD(groups, self.lr, MOMENTUM, nesterov=True)
        )
        self.signature = {
            "epochs": course.epochs,
            "batch_size": course.batch_size,
            "seed": course.seed,
            "lr": self.lr,
            "label_smoothing": course.label_smoothing,
            "taught": teacher is not None,
            "shapes": {name: list(t.shape) for name, t in model.state_dict().items()},
        }

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = logits_of(run(self.teacher, batch.inputs))
        logits = logits_of(run(model, batch.inputs))
        if not logits.is_cuda:  # a GPU would have to be waited for
            check_outputs(logits, batch.targets)
        return classifier_loss(logits, batch.targets, self.course.label_smoothing, taught)

    def check_labels(self) -> None:
        """Refuse labels that the model has no output for; on a GPU the loss would take the whole process down."""
        batch = next(self.batches.epoch(0))
        if batch.targets is None and self.teacher is None:
            raise PodarError("training needs labels: give batches of (inputs, labels).")
        with torch.no_grad():
            self.model.eval()
            logits = logits_of(run(self.model, batch.inputs))
            check_outputs(logits, batch.targets, self.batches.highest)
            if self.teacher is not None:
                taught = logits_of(run(self.teacher, batch.inputs))
                if taught.shape != logits.shape:
                    raise PodarError(
                        f"the teacher answers with the shape {tuple(taught.shape)} and the student with "
                        f"{tuple(logits.shape)}: both need the same classes."
                    )

    def run(
        self,
        file: Path | None,
        asked: str | None,
        told: Callable[[str], None] | None,
        after_step: Callable[[int, int], None] | None,
        progress: Progress | None,
    ) -> History:
        """Train to the end of the course; `told` hears the precision before the first step.

        **Raises:** `PodarError` where the loss is no longer finite, or the checkpoint is another training's.
        """
        signature = self.signature if asked is None else {**self.signature, "precision": asked}
        state = None if file is None else checkpoints.load(file, signature)
        chosen = self._precision(asked if state is None else state["precision"])
        if told is not None:
            told(str(chosen))
        if chosen.channels_last:
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        history = History([] if state is None else self._taken_up(state), str(chosen))
        model, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        good = _copied(self.model)
        for number in range(len(history.epochs) + 1, self.course.epochs + 1):
            torch.manual_seed(self.course.seed + 15485863 * number + self.accelerator.process_index)
            start, spent = time.perf_counter(), sum(epoch["seconds"] for epoch in history.epochs)
            loss, done = self._epoch(number, model, optimizer, chosen, spent, after_step, progress)
            if loss is None:  # the budget was spent before its first step
                return History(history.epochs, history.precision, self._why(number))
            if not math.isfinite(loss):
                self.model.load_state_dict(good)
                raise PodarError(self._diverged(number, loss))
            took = time.perf_counter() - start
            entry = {"epoch": number, "loss": loss, "lr": optimizer.param_groups[0]["lr"], "seconds": took}
            if self.batches.validation is not None:
                with chosen.autocast(self.accelerator.device):
                    entry["val_accuracy"] = accuracy(self.model, self.batches.validation)
            history.epochs.append(entry)
            good = _copied(self.model)
            if file is not None and self.accelerator.is_main_process:
                self._save(file, history)
            if not done:
                return History(history.epochs, history.precision, self._why(number))
        return history

    def _save(self, file: Path, history: History) -> None:
        """Write everything that the next epoch depends on."""
        state = {
            "signature": {**self.signature, "precision": history.precision},
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "epochs": history.epochs,
            "precision": history.precision,
            "masks": {} if self.keeper is None else self.keeper.state_dict(),
        }
        checkpoints.save(file, state)

    def _taken_up(self, state: dict[str, Any]) -> list[dict[str, float]]:
        """Go on from what `_save` wrote; the epochs that are done."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.keeper is not None and state.get("masks"):
            self.keeper.load_state_dict(state["masks"])
        return list(state["epochs"])

    def _diverged(self, number: int, loss: float) -> str:
        when = f"after epoch {number - 1}" if number > 1 else "before the training"
        return (
            f"training diverged in epoch {number}: the loss is {loss}; lower the learning rate (it was {self.lr:g}). "
            f"The model is as it was {when}."
        )

    def _why(self, number: int) -> str:
        return f"the budget of {self.course.seconds:g} s ended in epoch {number} of {self.course.epochs}"

    def _epoch(
        self,
        number: int,
        model: nn.Module,
        optimizer: Any,
        precision: Precision,
        spent: float,
        after_step: Callable[[int, int], None] | None,
        progress: Progress | None,
    ) -> tuple[float | None, bool]:
        """One epoch: its mean loss (None where there was no time for a step), and whether it ran to its end."""
        model.train()
        device = self.accelerator.device
        sums, count, start = torch.zeros((), device=device), 0, time.perf_counter()
        for step, batch in enumerate(self.batches.epoch(number)):
            done = (number - 1) * self.batches.steps + step
            if done < self.course.skip:
                continue
            elapsed = spent + time.perf_counter() - start
            share = done / self.total
            if self.course.seconds is not None:
                share = max(share, elapsed / self.course.seconds)
            share = self._agreed(share)
            if share >= 1:
                if self.keeper is not None:
                    self.keeper.step(1.0, optimizer)
                return (float(sums) / count if count else None), False
            for group in optimizer.param_groups:
                group["lr"] = (
                    self.lr * min(1.0, (done + 1) / (WARM_UP * self.total)) * (1 + math.cos(math.pi * share)) / 2
                )
            if precision.channels_last:
                batch = channels_last(batch)
            with precision.autocast(device):
                loss = self.loss(model, batch)
            self.accelerator.backward(loss)
            self.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
            optimizer.step()
            if self.keeper is not None:
                self.keeper.step(max(share, (done + 1) / self.total), optimizer)
            if after_step is not None:
                after_step(done + 1, self.total)
            optimizer.zero_grad()
            sums, count = sums + loss.detach().float(), count + 1
            if count % LOOK == 0 or count == self.batches.steps:
                mean = float(sums) / count
                if not math.isfinite(mean):
                    return mean, True
                if progress is not None and self.accelerator.is_main_process:
                    progress("fine-tune", done + 1, self.total, {"epoch": number, "loss": mean})
        return float(sums) / max(count, 1), True

    def _agreed(self, share: float) -> float:
        """Processes have clocks of their own: the first one's counts."""
        if self.course.seconds is None or self.accelerator.num_processes == 1:
            return share
        return float(broadcast_object_list([share])[0])

    def _precision(self, asked: str | None) -> Precision:
        if asked is not None:
            return Precision.parse(asked)
        if self.accelerator.mixed_precision != "no":
            return Precision()  # `accelerate launch --mixed_precision` decides, in the prepared model
        chosen: list[Any] = [None]
        if self.accelerator.is_main_process:
            batch = next(self.batches.epoch(0))
            chosen = [str(fastest_precision(self.model, batch, self.loss))]
        if self.accelerator.num_processes > 1:
            chosen = broadcast_object_list(chosen)
        return Precision.parse(str(chosen[0]))


def _wants_adam(model: nn.Module) -> bool:
    """Networks normalised by layer norms alone train badly with SGD."""
    kinds = [type(m).__name__ for m in model.modules()]
    return not any("BatchNorm" in k for k in kinds) and any("LayerNorm" in k or "RMSNorm" in k for k in kinds)


def _copied(model: nn.Module) -> dict[str, Any]:
    return {k: v.clone() if isinstance(v, Tensor) else v for k, v in model.state_dict().items()}


def _check(
    epochs: int, batch_size: int, seconds: float | None, smoothing: float, lr: float | None, precision: str | None
) -> None:
    if epochs < 1:
        raise UsageError(f"epochs={epochs} trains nothing: give 1 or more.")
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} makes no batch: give 1 or more.")
    if seconds is not None and seconds <= 0:
        raise UsageError(f"seconds={seconds:g} leaves no time: give more than 0.")
    if not 0 <= smoothing < 1:
        raise UsageError(f"label_smoothing={smoothing:g} is not between 0 and 1.")
    if lr is not None and lr <= 0:
        raise UsageError(f"lr={lr:g} learns nothing: give more than 0.")
    check_precision(precision)
