"""The loop of a training, on Accelerate: one process or many, CPU or GPU, the same lines."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import Tensor, nn

from podar.errors import PodarError, UsageError
from podar.model.batches import Batch
from podar.model.modes import modes_put_back
from podar.recover import checkpoints
from podar.recover.evaluation import accuracy
from podar.recover.feeding import Feed, Part, validation_batches
from podar.recover.good_steps import GoodSteps
from podar.recover.history import History
from podar.recover.metrics import Metrics
from podar.recover.objectives import Objective, outputs_of
from podar.recover.optimizers import Schedule, optimizer_for, rate_factor
from podar.recover.precision import Precision, channels_last, fastest_precision


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
Evaluate = Callable[[nn.Module], float | Mapping[str, Any]]

CLIP = 5.0  # norm of the gradient: a freshly cut network makes large ones
LOOK = 10  # steps between looks at the loss, each of which waits for the device


@dataclass(frozen=True)
class Course:
    """How long and how fast a training goes: arguments of `podar.finetune`."""

    epochs: int
    lr: float | None
    batch_size: int
    seconds: float | None
    seed: int
    skip: int
    accumulate: int
    optimizer: Any
    schedule: Schedule


@dataclass(frozen=True)
class Listener:
    """Who hears of a training, and what is measured for them: arguments of `podar.finetune`."""

    chosen: Callable[[str], None] | None
    after_step: Callable[[int, int], None] | None
    progress: Progress | None
    evaluate: Evaluate | None
    metrics: Metrics


class Training:
    """One call of `podar.finetune`: its parts, and what is carried from epoch to epoch.

    **Raises:** `UsageError` where more steps are to be skipped than there are.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        model: nn.Module,
        batches: Feed,
        part: Part,
        objective: Objective,
        course: Course,
        listener: Listener,
        keeper: MaskKeeper | None,
    ) -> None:
        self.accelerator, self.model, self.batches, self.part = accelerator, model, batches, part
        self.objective, self.course, self.listener, self.keeper = objective, course, listener, keeper
        self.steps = -(-batches.steps // course.accumulate)  # of the optimizer, in an epoch
        self.total = course.epochs * self.steps
        if not 0 <= course.skip < self.total:
            raise UsageError(f"skip={course.skip} leaves none of the {self.total} steps of this training.")
        self.optimizer = optimizer_for(model, course.optimizer, course.lr, course.batch_size, objective.adaptive)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.signature = {
            "epochs": course.epochs,
            "batch_size": course.batch_size,
            "seed": course.seed,
            "lr": self.rates[0] if len(set(self.rates)) == 1 else self.rates,
            "optimizer": type(self.optimizer).__name__,
            "accumulate": course.accumulate,
            **objective.facts,
            "shapes": {name: list(t.shape) for name, t in model.state_dict().items()},
        }

    def check(self) -> None:
        """Refuse what cannot be trained or measured, with one sentence, before anything is."""
        self.objective.check(self.model, self.batches.epoch(0), self.batches.highest)
        metrics = self.listener.metrics
        if not metrics:
            return
        found = self.batches.epoch(0) if self.batches.validation is None else self._validation()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.filterwarnings("error", message="Using a target size")  # shapes that spread over each other
            self.model.eval()
            batch = next(found)
            metrics.add(outputs_of(self.model, batch.inputs), batch.targets)
            metrics.values()
        metrics.reset()

    def run(self, file: Path | None, asked: str | None) -> History:
        """Train to the end of the course; the listener hears the precision before the first step.

        **Raises:** `PodarError` where the loss is no longer finite, or the checkpoint is another training's.
        """
        signature = self.signature if asked is None else {**self.signature, "precision": asked}
        state = None if file is None else checkpoints.load(file, signature)
        self.objective.ready(self.model)
        chosen = self._precision(asked if state is None else state["precision"])
        if self.listener.chosen is not None:
            self.listener.chosen(str(chosen))
        if chosen.channels_last:
            self.model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
        history = History([] if state is None else self._taken_up(state), str(chosen))
        model, optimizer = self.accelerator.prepare(self.model, self.optimizer)
        good = GoodSteps(self.model, self.accelerator, len(history.epochs) * self.steps)
        for number in range(len(history.epochs) + 1, self.course.epochs + 1):
            torch.manual_seed(self.course.seed + 15485863 * number + self.accelerator.process_index)
            start, spent = time.perf_counter(), sum(epoch["seconds"] for epoch in history.epochs)
            loss, done = self._epoch(number, model, optimizer, chosen, spent, good)
            if loss is None:  # the budget was spent before its first step
                return History(history.epochs, history.precision, self._why(number))
            took = time.perf_counter() - start
            entry = {"epoch": number, "loss": loss, "lr": optimizer.param_groups[0]["lr"], "seconds": took}
            with chosen.autocast(self.accelerator.device):
                entry.update(self._measured())
            history.epochs.append(entry)
            if file is not None and self.accelerator.is_main_process:
                self._save(file, history)
            if not done:
                return History(history.epochs, history.precision, self._why(number))
        return history

    def _measured(self) -> dict[str, float]:
        """What is measured after an epoch."""
        entry: dict[str, float] = {}
        if self.objective.classes and self.batches.validation is not None:
            entry["val_accuracy"] = accuracy(self.model, self.batches.validation)
        metrics = self.listener.metrics
        with modes_put_back(self.model), torch.no_grad():
            self.model.eval()
            if metrics and self.batches.validation is not None:
                metrics.reset()
                for batch in self._validation():
                    metrics.add(outputs_of(self.model, batch.inputs), batch.targets)
            entry.update(metrics.values())
            if self.listener.evaluate is not None:
                entry.update(_numbers(self.listener.evaluate(self.model)))
        return entry

    def _validation(self) -> Iterator[Batch]:
        return validation_batches(
            self.batches.validation, lambda given: self.objective.read(given, self.model), self.part
        )

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

    def _why(self, number: int) -> str:
        return f"the budget of {self.course.seconds:g} s ended in epoch {number} of {self.course.epochs}"

    def _epoch(
        self, number: int, model: nn.Module, optimizer: Any, precision: Precision, spent: float, good: GoodSteps
    ) -> tuple[float | None, bool]:
        """One epoch: its mean loss (None where there was no time for a step), and whether it ran to its end."""
        self.objective.ready(model)
        self.listener.metrics.reset()
        sums, count, start = torch.zeros((), device=self.accelerator.device), 0, time.perf_counter()
        batches = self.batches.epoch(number)
        for step in range(self.steps):
            own = list(islice(batches, self.course.accumulate))
            if not own:
                break
            done = (number - 1) * self.steps + step
            if done < self.course.skip:
                continue
            share = self._share(done, spent + time.perf_counter() - start)
            if share >= 1:
                if self.keeper is not None:
                    self.keeper.step(1.0, optimizer)
                return (float(sums) / count if count else None), False
            factor = rate_factor(self.course.schedule, done, self.total, share)
            for group, rate in zip(optimizer.param_groups, self.rates):
                group["lr"] = rate * factor
            loss = self._gradients(model, own, precision)
            norm = self.accelerator.clip_grad_norm_(self.model.parameters(), CLIP)
            sums, count = sums + loss, count + 1
            looked = count % LOOK == 0 or step + 1 == self.steps
            if looked or good.every_step:
                good.look(number, done, sums / count, norm, own, self.rates)
            optimizer.step()
            if self.keeper is not None:
                self.keeper.step(max(share, (done + 1) / self.total), optimizer)
            if self.listener.after_step is not None:
                self.listener.after_step(done + 1, self.total)
            optimizer.zero_grad()
            if looked and self.listener.progress is not None and self.accelerator.is_main_process:
                numbers = {"epoch": number, "loss": float(sums) / count}
                self.listener.progress("fine-tune", done + 1, self.total, numbers)
        return float(sums) / max(count, 1), True

    def _gradients(self, model: nn.Module, batches: list[Batch], precision: Precision) -> Tensor:
        """Gradients of the mean loss of some batches; that mean."""
        total = torch.zeros((), device=self.accelerator.device)
        metrics = self.listener.metrics
        for batch in batches:
            if precision.channels_last:
                batch = channels_last(batch)
            with precision.autocast(self.accelerator.device):
                loss, outputs = self.objective.loss(model, batch)
            self.accelerator.backward(loss / len(batches))
            if metrics and self.batches.validation is None:
                metrics.add(outputs, batch.targets)
            total = total + loss.detach().float() / len(batches)
        return total

    def _share(self, done: int, elapsed: float) -> float:
        """How much of the training is done; processes have clocks of their own: the first one's counts."""
        share = done / self.total
        if self.course.seconds is None:
            return share
        share = max(share, elapsed / self.course.seconds)
        return share if self.accelerator.num_processes == 1 else float(broadcast_object_list([share])[0])

    def _precision(self, asked: str | None) -> Precision:
        if asked is not None:
            return Precision.parse(asked)
        if self.accelerator.mixed_precision != "no":
            return Precision()  # `accelerate launch --mixed_precision` decides, in the prepared model
        chosen: list[Any] = [None]
        if self.accelerator.is_main_process:
            batch = next(self.batches.epoch(0))
            chosen = [
                str(fastest_precision(self.model, batch, lambda model, batch: self.objective.loss(model, batch)[0]))
            ]
        if self.accelerator.num_processes > 1:
            chosen = broadcast_object_list(chosen)
        return Precision.parse(str(chosen[0]))


def _numbers(said: Any) -> dict[str, float]:
    """What `evaluate` said, as numbers of an epoch."""
    named = said if isinstance(said, Mapping) else {"evaluation": said}
    try:
        return {str(name): float(value) for name, value in named.items()}
    except (TypeError, ValueError, RuntimeError) as error:
        raise PodarError(
            f"evaluate= gives a {type(said).__name__}, and a number or a dict of numbers is needed."
        ) from error
