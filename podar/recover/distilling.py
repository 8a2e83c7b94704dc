"""`podar.distill`: a model learns another one's answers, with labels where they are classes, and without any."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from podar.data import Split
from podar.errors import PodarError, UsageError
from podar.model.batches import Batch, read, run, training_part
from podar.model.modes import modes_put_back
from podar.recover.evaluation import logits_of
from podar.recover.finetuning import finetune
from podar.recover.history import History
from podar.recover.matching import Matching, are_classes


def distill(
    student: nn.Module, teacher: nn.Module, data: Any, *, answers: str | None = None, **options: Any
) -> History:
    """Train `student` until it answers as `teacher` does: a pruned model as the dense one, for any task.

    Where the data hold class labels and the models give logits [N, classes], labels and answers are learned together
    (Hinton et al. 2015), as `finetune(teacher=teacher)` does. Else no labels are needed, and none are looked at: every
    output of values is brought near the teacher's, in whatever tensors, tuples, dicts and dataclasses they stand. What
    is small is the squared error relative to the spread of the teacher's output (of each column or channel), and the
    divergence of distributions where an output is logits: where the model calls it `logits`, with classes on its last
    axis. A bare tensor [N, C] may be a regression, and is compared by its values.

    Without labels both models evaluate, so that the outputs are those that count, and nothing is dropped; batch norms
    of the student train, as in fine-tuning, unless that by itself leads away from the teacher. The optimizer is AdamW.

    **Arguments:**

    - `student`: trained in place. `teacher`: not changed.
    - `data`: inputs, in any form that docs/data.md names; targets may stand beside them.
    - `answers`: "logits" where outputs are logits though nothing says so, "values" where none are; labels are not
      looked at then.
    - `options`: those of `finetune`, but for `loss` and `teacher`.

    **Returns:** History; its `loss` is the relative error (0: the same answers; 1: no better than a constant).

    **Raises:** As `finetune`; `UsageError` where the student is the teacher; `PodarError` where the outputs of both are
    not of the same form.

    ```python
    podar.distill(pruned, dense, inputs, epochs=5)
    ```
    """
    if student is teacher:
        raise UsageError("student and teacher are the same object: build the teacher anew, or copy.deepcopy it.")
    for name in ("loss", "teacher"):
        if options.get(name) is not None:
            raise UsageError(
                f"{name}= is not for podar.distill, which learns the teacher's answers: use podar.finetune."
            )
    objective = Matching(teacher, answers)
    if answers is None and _labelled_classifier(teacher, data):
        return finetune(student, data, teacher=teacher, **options)
    return finetune(student, data, loss=objective, **options)


@torch.no_grad()
def _labelled_classifier(teacher: nn.Module, data: Any) -> bool:
    """Whether the first batch holds classes, and the teacher answers with logits for them."""
    data = training_part(data)
    if isinstance(data, Split):
        if not len(data) or not data.labelled:
            return False
        batch = Batch(*data.batch(torch.arange(1)))
    else:
        if isinstance(data, (str, bytes)) or not hasattr(data, "__len__") or not len(data):
            return False  # which training refuses with its own words
        with torch.random.fork_rng(devices=[]):
            batch = next(read(data, teacher, "distillation"))
    if not are_classes(batch.targets):
        return False
    with modes_put_back(teacher):
        teacher.eval()
        try:
            return logits_of(run(teacher, batch.inputs)).shape[-1] > 1
        except PodarError:
            return False
