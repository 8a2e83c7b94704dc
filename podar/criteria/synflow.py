"""SynFlow: the flow through a network of absolute weights; needs no images, only their shape."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from podar.criteria.backward import forward, input_batches, scoring
from podar.criteria.registry import criterion
from podar.errors import PodarError


@criterion("synflow")
def synflow(model: nn.Module, data: Any = None, loss: Any = None) -> dict[str, Tensor]:
    """|weight × ∂R/∂weight|, R the summed output for ones as input and positive weights (Tanaka et al., 2020).

    An embedding is a linear layer over one-hot words, so there ones mean the sum of all its rows.

    Args:
        data: inputs or batches; only the shape of the first sample is used, never its values or labels.
        loss: ignored.

    Raises:
        PodarError: no data, or a shape that the model does not run on.
    """
    sample = next(iter(input_batches(data, "synflow", limit=1)))
    words = [m for m in model.modules() if isinstance(m, (nn.Embedding, nn.EmbeddingBag))]
    if not words and not (isinstance(sample, Tensor) and sample.is_floating_point()):
        raise PodarError("synflow feeds the model ones in place of an image: it needs a floating-point tensor as input")
    hooks = [m.register_forward_hook(_all_rows) for m in words]
    with scoring(model) as parameters:
        tensors = [t for t in (*model.parameters(), *model.buffers()) if t.is_floating_point()]
        saved = [t.detach().clone() for t in tensors]
        try:
            # Double precision: the product of all layers' widths overflows float32 in deep networks.
            for t in tensors:
                t.data = t.data.double().abs()
            inputs = {k: _ones(v) for k, v in sample.items()} if isinstance(sample, dict) else _ones(sample)
            output = forward(model, inputs, "synflow")
            outputs = output if isinstance(output, (tuple, list)) else [output]
            total = torch.stack([o.sum() for o in outputs]).sum()
            found = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
            scores = {n: (p.detach() * g).abs() for (n, p), g in zip(parameters.items(), found) if g is not None}
        finally:
            for hook in hooks:
                hook.remove()
            for t, values in zip(tensors, saved):
                t.data = values
    return scores


def _ones(sample: Any) -> Any:
    """Ones of the first sample's shape; words stay, since their embeddings become ones' image."""
    if not isinstance(sample, Tensor):
        return sample
    return torch.ones_like(sample[:1], dtype=torch.float64) if sample.is_floating_point() else sample[:1]


def _all_rows(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return module.weight.sum(0).expand(output.shape)  # type: ignore[union-attr,operator]
