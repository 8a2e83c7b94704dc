"""SynFlow: the flow through a network of absolute weights; needs no images, only their shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from podar.criteria.calibration import forward, scoring
from podar.criteria.register import criterion
from podar.errors import PodarError
from podar.model.batches import inputs_of, rows, size
from podar.model.tensors import map_tensors, tensors_in


@criterion("synflow", needs=("data",))
def synflow(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """|weight × ∂R/∂weight|, R the summed output for ones as input and positive weights (Tanaka et al., 2020).

    An embedding is a linear layer over one-hot words, so there ones mean the sum of all its rows.

    **Arguments:**

    - `data`: inputs or batches; only the shape of the first sample is used, never its values or labels.
    - `loss`: ignored.

    **Raises:** `PodarError`: no data, or a shape that the model does not run on.
    """
    sample = next(iter(inputs_of(data, model, "importance 'synflow'", limit=1)))
    words = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    if not words and not any(tensor.is_floating_point() for tensor in tensors_in(sample)):
        raise PodarError("synflow feeds the model ones in place of an image: it needs a floating-point tensor as input")
    hooks = [m.register_forward_hook(_all_rows) for m in words]
    with scoring(model) as parameters:
        tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
        saved = [t.detach().clone() for t in tensors]
        try:
            # Double precision: the product of all layers' widths overflows float32 in deep networks.
            for t in tensors:
                t.data = t.data.double().abs()
            outputs = tensors_in(forward(model, _ones(sample), "synflow"))
            total = torch.stack([o.sum() for o in outputs if o.is_floating_point()]).sum()
            found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
            scores = {n: (p.detach() * g).abs() for (n, p), g in zip(parameters.items(), found) if g is not None}
        finally:
            for hook in hooks:
                hook.remove()
            for t, values in zip(tensors, saved):
                t.data = values
    return scores


def _ones(sample: Any) -> Any:
    """Ones of the first sample's shape; words stay, since their embeddings become ones' image.

    Where the first axis is not the batch in every tensor (a recurrent state), the whole batch stands for one sample.
    """
    count = size(sample)
    if all(tensor.dim() and len(tensor) == count for tensor in tensors_in(sample)):
        sample = rows(sample, 0, 1, count)
    return map_tensors(
        lambda tensor: torch.ones_like(tensor, dtype=torch.float64) if tensor.is_floating_point() else tensor, sample
    )


def _all_rows(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return module.weight.sum(0).expand(output.shape)  # type: ignore[union-attr,operator]
