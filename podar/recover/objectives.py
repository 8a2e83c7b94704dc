"""What a training makes small: the loss of a classifier, of the caller's own function, or what the model returns."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from podar.errors import PodarError, UsageError, first_line
from podar.model.batches import Batch, labelled, read, run, supervised
from podar.model.state import state_put_back
from podar.model.tensors import named_tensors, tensors_in, to_device
from podar.recover.evaluation import logits_of
from podar.recover.losses import OTHER_TASKS, check_outputs, check_targets, classifier_loss


@runtime_checkable
class Objective(Protocol):
    """How a training reads its data and what it makes small.

    - `facts`: what a checkpoint says of it: a training with other facts does not go on from there.
    - `adaptive`: whether AdamW is its optimizer where nobody asks for another.
    - `classes`: whether it trains a classifier, whose accuracy is measured.
    """

    facts: dict[str, Any]
    adaptive: bool
    classes: bool

    def read(self, data: Any, model: nn.Module) -> Iterator[Batch]:
        """Batches of what is no picture set of podar's own."""
        ...

    def check(self, model: nn.Module, batches: Iterator[Batch], highest: int | None) -> None:
        """Refuse what cannot be trained, before anything is; `highest`: the largest label, where that is known."""
        ...

    def ready(self, model: nn.Module) -> None:
        """Give the model's parts the modes in which they are trained."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """The loss of a batch, a scalar, and the model's outputs."""
        ...


class Classes:
    """Cross entropy with smoothed labels, and the answers of a teacher beside them."""

    adaptive, classes = False, True

    def __init__(self, teacher: nn.Module | None, smoothing: float, device: torch.device) -> None:
        self.teacher = None if teacher is None else copy.deepcopy(teacher).to(device).eval()
        self.smoothing = smoothing
        self.facts = {"label_smoothing": smoothing, "taught": teacher is not None}

    def read(self, data: Any, model: nn.Module) -> Iterator[Batch]:
        """Pairs of inputs and classes; with a teacher also inputs alone."""
        what = "training" if self.teacher is None else "distillation"
        for batch in labelled(data, what) if self.teacher is None else read(data, model, what):
            if batch.targets is not None:
                check_targets(batch.targets, "training")
                whole = batch.targets if batch.targets.is_floating_point() else batch.targets.long()
                batch = Batch(batch.inputs, whole)
            yield batch

    def check(self, model: nn.Module, batches: Iterator[Batch], highest: int | None) -> None:
        """Refuse labels that the model has no output for; on a GPU the loss would take the whole process down."""
        batch = next(batches)
        if batch.targets is None and self.teacher is None:
            raise PodarError("training needs labels: give batches of (inputs, labels).")
        with torch.no_grad():
            model.eval()
            try:
                logits = logits_of(run(model, batch.inputs))
            except PodarError as error:
                raise PodarError(f"{str(error).rstrip('.')}; {OTHER_TASKS}") from error
            check_outputs(logits, batch.targets, highest)
            if self.teacher is not None:
                taught = logits_of(run(self.teacher, batch.inputs))
                if taught.shape != logits.shape:
                    raise PodarError(
                        f"the teacher answers with the shape {tuple(taught.shape)} and the student with "
                        f"{tuple(logits.shape)}: both need the same classes."
                    )

    def ready(self, model: nn.Module) -> None:
        """Everything trains."""
        model.train()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """The mean loss of a batch."""
        taught = None
        if self.teacher is not None:
            with torch.no_grad():
                taught = logits_of(run(self.teacher, batch.inputs))
        outputs = run(model, batch.inputs)
        logits = logits_of(outputs)
        if not logits.is_cuda:  # a GPU would have to be waited for
            check_outputs(logits, batch.targets)
        return classifier_loss(logits, batch.targets, self.smoothing, taught), outputs


class Task:
    """Any task: `loss(outputs, targets)`, or "model" for what the model itself returns as its loss."""

    adaptive, classes = False, False

    def __init__(self, loss: Callable[[Any, Any], Tensor] | str, device: torch.device) -> None:
        if not callable(loss) and loss != "model":
            raise UsageError(f'loss={loss!r} is no loss: give a function of (outputs, targets), or "model".')
        self.function = None if isinstance(loss, str) else loss
        if isinstance(loss, nn.Module):  # it may hold weights of classes
            loss.to(device)
        self.facts = {"loss": loss if isinstance(loss, str) else getattr(loss, "__name__", type(loss).__name__)}

    def read(self, data: Any, model: nn.Module) -> Iterator[Batch]:
        """Batches of any form."""
        return supervised(data, model, "training", whole=self.function is None)

    def check(self, model: nn.Module, batches: Iterator[Batch], highest: int | None) -> None:
        """Compute one loss, after which the model is as it was."""
        with state_put_back(model), torch.random.fork_rng(devices=[]):
            self.ready(model)
            with warnings.catch_warnings():
                warnings.filterwarnings("error", message="Using a target size")  # shapes that spread over each other
                value, _ = self.loss(model, next(batches))
            if not value.requires_grad:
                raise PodarError(
                    "the loss does not depend on any weight that can be trained: nothing would be learned."
                )

    def ready(self, model: nn.Module) -> None:
        """Everything trains."""
        model.train()

    def loss(self, model: nn.Module, batch: Batch) -> tuple[Tensor, Any]:
        """What the function, or the model, says of a batch."""
        outputs = outputs_of(model, batch.inputs)
        if self.function is None:
            return _scalar(_own_loss(outputs), "the model's own loss"), outputs
        return _scalar(said_of(self.function, "the loss", outputs, batch.targets), "the loss"), outputs


def outputs_of(model: nn.Module, inputs: Any) -> Any:
    """What the model answers.

    **Raises:** `PodarError` where it does not run on these inputs.
    """
    try:
        return run(model, inputs)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        raise PodarError(
            f"the model does not run on a batch of {described(inputs)} ({type(error).__name__}: {first_line(error)}): "
            "write ((first, second), targets), or a dict of what its forward takes."
        ) from error


def said_of(function: Callable[[Any, Any], Any], what: str, outputs: Any, targets: Any) -> Any:
    """`function(outputs, targets)` for a loss or a metric; of outputs with `logits` it is given those.

    **Raises:** `PodarError` where it cannot be computed.
    """
    given = getattr(outputs, "logits", outputs)
    device = next((tensor.device for tensor in tensors_in(given)), torch.device("cpu"))
    try:
        return function(given, to_device(targets, device) if targets is not None else None)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, UserWarning) as error:
        if isinstance(error, PodarError):
            raise
        hint = "; the batches hold no targets: give (inputs, targets)" if targets is None else ""
        raise PodarError(
            f"{what} cannot be computed from outputs {described(given)} and targets {described(targets)}{hint} "
            f"({type(error).__name__}: {first_line(error)})."
        ) from error


def described(value: Any) -> str:
    """The shapes of what a container holds, for a message."""
    tensors = list(named_tensors(value, fields=True))
    shapes = ", ".join(f"{name} {tuple(tensor.shape)}".strip() for name, tensor in tensors[:6])
    return (shapes + (", …" if len(tensors) > 6 else "")) or ("none" if value is None else f"a {type(value).__name__}")


def _own_loss(outputs: Any) -> Any:
    """The loss among what a model returns: `.loss`, `["loss"]`, or the sum of a dict of nothing but losses."""
    if isinstance(outputs, Mapping):
        if outputs.get("loss") is not None:
            return outputs["loss"]
        if outputs and all("loss" in str(name) for name in outputs):
            return sum(outputs.values())
    elif getattr(outputs, "loss", None) is not None:
        return outputs.loss
    raise PodarError(
        f'loss="model" needs a model that returns a .loss, and it returns {described(outputs)}: give batches with the '
        "targets that its forward takes (labels), or a function as loss=."
    )


def _scalar(value: Any, what: str) -> Tensor:
    if not isinstance(value, Tensor) or value.is_complex() or not value.is_floating_point():
        kind = f"a tensor of {value.dtype}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise PodarError(f"{what} gives {kind}, and a training needs a tensor with one number.")
    if value.numel() != 1:
        raise PodarError(
            f"{what} gives a tensor of the shape {tuple(value.shape)}, and a training needs one number: take its mean, "
            "as in .mean()."
        )
    return value.reshape(())
