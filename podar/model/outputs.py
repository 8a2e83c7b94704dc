"""Where a model's answer is among what it returns: one rule for training, scoring, measuring and reports."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from podar.errors import PodarError
from podar.model.tensors import named_tensors

NAMES = ("logits", "out", "output", "outputs", "prediction", "predictions", "pred", "preds", "scores", "class_logits")
"""What people call the answer among other things that a model returns, the surest name first."""
OTHERS = ("box", "feature", "embed", "hidden", "attention", "state", "loss", "mask")
"""Parts of the names of outputs that are not the answer of a classifier."""


def main_output(outputs: Any) -> Tensor:
    """The answer among a model's outputs.

    A tensor is its own answer. Of a mapping, a named tuple, a dataclass or another object it is the tensor under the
    first of `NAMES` that it has, else the only one whose name does not say that it is something else. In a tuple or
    list, which is read by place, it is the first. Tensors of floats with two axes (batch, classes) come before others;
    scalars and whole numbers are none.

    **Raises:** `PodarError` where there is no such tensor, or several under names that say nothing.

    ```python
    >>> import torch
    >>> main_output({"features": torch.zeros(2, 64), "logits": torch.zeros(2, 10)}).shape
    torch.Size([2, 10])

    ```
    """
    if isinstance(outputs, Tensor):
        return outputs
    found = named_outputs(outputs)
    floats = [(path, tensor) for path, tensor in found if tensor.is_floating_point() and tensor.dim() > 1]
    floats = [(path, tensor) for path, tensor in floats if not any(word in path.lower() for word in OTHERS)]
    for name in NAMES:
        for path, tensor in floats:
            if path.rpartition(".")[2] == name or path.split(".")[0] == name:
                return tensor
    for fitting in ([pair for pair in floats if pair[1].dim() == 2], floats):
        if len(fitting) > 1 and not fitting[0][0].split(".")[0].isdigit():
            names = ", ".join(path for path, _ in fitting)
            raise PodarError(
                f"the model returns {names}, and none of these names says which are the logits: name them logits."
            )
        if fitting:
            return fitting[0][1]
    what = ", ".join(f"{path} {tuple(tensor.shape)}" for path, tensor in found) or type(outputs).__name__
    raise PodarError(f"the model returns no tensor of logits, only {what}.")


def named_outputs(outputs: Any) -> list[tuple[str, Tensor]]:
    """Every tensor among a model's outputs with its path, those that are attributes of a plain object too."""
    return list(named_tensors(outputs, fields=True)) or list(named_tensors(_attributes(outputs), fields=True))


def _attributes(outputs: Any) -> dict[str, Any]:
    """The attributes of an object that is no container: those of a plain class with the model's answers."""
    return dict(vars(outputs)) if hasattr(outputs, "__dict__") and not isinstance(outputs, type) else {}
