"""The loss of a classifier: cross entropy with smoothed labels, and a teacher's answers beside them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from podar.errors import PodarError

TEMPERATURE = 4.0
TEACHER_SHARE = 0.7
"""How much of the loss is the teacher's, the labels have the rest."""

OTHER_TASKS = (
    'for another task than classes give loss=, a function of (outputs, targets), or "model" for its own .loss.'
)


def classifier_loss(logits: Tensor, labels: Tensor | None, smoothing: float, taught: Tensor | None) -> Tensor:
    """Mean loss of a batch.

    **Arguments:** `logits`, `taught` (the teacher's logits or None): [N, classes]; `labels`: int64 [N], or shares of
    each class [N, classes], or None, where the teacher's answers are all that is learned; `smoothing`: the share of a
    label that is spread over all classes (Szegedy et al. 2016).

    With a teacher: `(1 − α) · CE + α · T² · KL(teacher ‖ student)` at temperature T (Hinton et al. 2015).
    """
    soft = None if taught is None else TEMPERATURE**2 * _divergence(logits, taught)
    if labels is None:
        assert soft is not None
        return soft
    hard = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    return hard if soft is None else (1 - TEACHER_SHARE) * hard + TEACHER_SHARE * soft


def check_targets(targets: Any, what: str) -> None:
    """Refuse targets that are no classes: neither one class number a sample nor a distribution over classes.

    **Raises:** `PodarError`.
    """
    if not isinstance(targets, Tensor):
        _refuse(what, f"a {type(targets).__name__}")
    elif targets.is_floating_point():
        if targets.dim() != 2:
            _refuse(what, f"numbers of the shape {tuple(targets.shape)}")
        if targets.shape[1] < 2 or bool((targets < 0).any()) or not bool(((targets.sum(1) - 1).abs() < 1e-2).all()):
            _refuse(what, f"rows of {targets.shape[1]} numbers that are not shares which add up to 1")
    elif targets.dim() != 1 or targets.dtype == torch.bool or targets.is_complex():
        kind = str(targets.dtype).removeprefix("torch.")
        _refuse(what, f"{kind} of the shape {tuple(targets.shape)}")
    elif targets.numel() and int(targets.min()) < 0:
        _refuse(what, f"numbers as low as {int(targets.min())}")


def check_outputs(logits: Tensor, targets: Tensor | None, highest: int | None = None) -> None:
    """Refuse targets that the model has no output for, and models without two outputs to choose between.

    **Arguments:** `highest`: the largest label of the whole data, where it is known.

    **Raises:** `PodarError`.
    """
    outputs = logits.shape[1]
    if targets is not None and targets.is_floating_point():
        classes = targets.shape[1]
        if classes != outputs:
            plural = "" if outputs == 1 else "s"
            raise PodarError(
                f"the targets are shares of {classes} classes, and the model has {outputs} output{plural}: build it "
                f"with {classes}."
            )
    elif targets is not None:
        highest = int(targets.max()) if highest is None else highest
        if highest >= outputs:
            plural = "" if outputs == 1 else "s"
            raise PodarError(
                f"the training data have the label {highest}, and the model has {outputs} output{plural}: build it "
                f"with {highest + 1} or more."
            )
    if outputs < 2:
        raise PodarError(
            "the model has one output, which leaves a classifier nothing to choose between: podar trains classifiers "
            "of two classes or more."
        )


def _refuse(what: str, found: str) -> None:
    raise PodarError(
        f"{what} needs targets that are classes (whole numbers [N] from 0, or shares of each class [N, classes]), and "
        f"the data hold {found}" + (f": {OTHER_TASKS}" if what == "training" else ".")
    )


def _divergence(logits: Tensor, taught: Tensor) -> Tensor:
    """KL(teacher ‖ student) at the temperature, a sample."""
    return functional.kl_div(
        functional.log_softmax(logits.float() / TEMPERATURE, dim=1),
        functional.log_softmax(taught.float() / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
