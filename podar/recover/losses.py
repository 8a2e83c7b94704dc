"""The loss of a classifier: cross entropy with smoothed labels, and a teacher's answers beside them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

TEMPERATURE = 4.0
TEACHER_SHARE = 0.7
"""How much of the loss is the teacher's, the labels have the rest."""


def classifier_loss(logits: Tensor, labels: Tensor, smoothing: float, taught: Tensor | None) -> Tensor:
    """Mean loss of a batch.

    **Arguments:** `logits`, `taught` (the teacher's logits or None): [N, classes]; `labels`: int64 [N]; `smoothing`:
    the share of a label that is spread over all classes (Szegedy et al. 2016).

    With a teacher: `(1 − α) · CE + α · T² · KL(teacher ‖ student)` at temperature T (Hinton et al. 2015).
    """
    hard = functional.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    if taught is None:
        return hard
    soft = functional.kl_div(
        functional.log_softmax(logits.float() / TEMPERATURE, dim=1),
        functional.log_softmax(taught.float() / TEMPERATURE, dim=1),
        reduction="batchmean",
        log_target=True,
    )
    return (1 - TEACHER_SHARE) * hard + TEACHER_SHARE * TEMPERATURE**2 * soft
