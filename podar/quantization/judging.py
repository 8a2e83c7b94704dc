"""What an encoded model answers, judged against the float one: accuracy, agreement, and the distance of the outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from podar.errors import PodarError, first_line
from podar.model.outputs import main_output
from podar.quantization.samples import Samples
from podar.runtimes import Session

Answers = list[np.ndarray]
"""Every output of a model, over all samples."""


@dataclass(frozen=True)
class Judged:
    """How good answers are.

    - `accuracy`: share of samples whose top answer is their label; None without labels or for no classifier.
    - `agreement`: share of samples whose top answer is the float model's; None for no classifier.
    - `error`: distance of all outputs over the size of the float ones; None where numbers are not finite.
    """

    accuracy: float | None
    agreement: float | None
    error: float | None


def answers(session: Session, samples: Samples) -> Answers:
    """Run a model over all samples.

    **Raises:** `PodarError` where the runtime cannot run it.
    """
    found: list[list[np.ndarray]] = []
    try:
        for feed in samples.feeds:
            outputs = session.run([feed[port.name] for port in session.inputs])
            found.append([np.asarray(output) for output in outputs])
    except PodarError:
        raise
    except Exception as error:  # the runtimes' errors share no base class
        raise PodarError(f"{session.version} cannot run it ({first_line(error)})") from error
    return [np.concatenate([np.atleast_1d(o) for o in parts]) if _joins(parts) else parts[0] for parts in zip(*found)]


def _joins(parts: Sequence[np.ndarray]) -> bool:
    """Whether outputs of several batches are parts of one: equal but for their first axis."""
    return all(part.shape[1:] == parts[0].shape[1:] for part in parts)


def judge(found: Answers, floating: Answers, names: Sequence[str], labels: np.ndarray | None) -> Judged:
    """Compare answers with those of the float model. `names`: of the outputs."""
    place = classifier_output(floating, names)
    accuracy = agreement = None
    if place is not None and _finite(found[place]):
        top = found[place].argmax(axis=1)
        agreement = float((top == floating[place].argmax(axis=1)).mean())
        accuracy = None if labels is None else float((top == labels).mean())
    return Judged(accuracy, agreement, _distance(found, floating))


def check_labels(floating: Answers, names: Sequence[str], labels: np.ndarray | None) -> None:
    """Refuse labels that a classifier has no output for.

    **Raises:** `PodarError`.
    """
    place = classifier_output(floating, names)
    if place is not None and labels is not None and int(labels.max()) >= floating[place].shape[1]:
        raise PodarError(
            f"the data have the label {int(labels.max())}, and the model has {floating[place].shape[1]} outputs: these "
            "do not belong together."
        )


def classifier_output(found: Answers, names: Sequence[str]) -> int | None:
    """Which output holds one number a class [N, classes]; None where the model is no classifier."""
    tensors = {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in zip(names, found)}
    try:
        main = main_output(next(iter(tensors.values())) if len(tensors) == 1 else tensors)
    except PodarError:
        return None
    if main.dim() != 2 or main.shape[1] < 2 or not main.is_floating_point():
        return None
    return next(place for place, tensor in enumerate(tensors.values()) if tensor is main)


def _finite(array: np.ndarray) -> bool:
    return bool(np.isfinite(array).all())


def _distance(found: Answers, floating: Answers) -> float | None:
    """Over all outputs of real numbers; where there are none, the share of whole numbers that differ."""
    pairs = [(a, b) for a, b in zip(found, floating) if b.dtype.kind == "f"]
    if not pairs:
        return float(np.mean([np.mean(a != b) if a.shape == b.shape else 1.0 for a, b in zip(found, floating)]))
    if any(a.shape != b.shape or not _finite(a) for a, b in pairs):
        return None
    size = math.fsum(float(np.square(b.astype(np.float64)).sum()) for _, b in pairs)
    gap = math.fsum(float(np.square(a.astype(np.float64) - b).sum()) for a, b in pairs)
    return math.sqrt(gap / size) if size else (0.0 if not gap else None)
