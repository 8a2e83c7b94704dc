"""A fused layer as a torch module, for runtimes that run modules instead of files."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from podar.latency.layers import Layer

_ACTIVATIONS = {"hardtanh": F.relu6, "sigmoid": torch.sigmoid, "tanh": torch.tanh}


class LayerModule(nn.Module):
    """One layer whose weights are all one number. A norm that files fold into it is an operator of its own here."""

    def __init__(self, layer: Layer, times: int = 1) -> None:
        super().__init__()
        self.layer, self.times = layer, times
        self.weight = nn.Parameter(torch.full(layer.weight, 0.01), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(layer.outputs), requires_grad=False)

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        waiting = list(others)
        for _ in range(self.times):
            x = self._layer(x)
            for name in self.layer.tail:
                x = x + waiting.pop(0) if name == "add" else (_ACTIVATIONS.get(name) or getattr(F, name))(x)
        return x

    def _layer(self, x: Tensor) -> Tensor:
        own = self.layer
        if own.kind == "linear":
            return F.linear(x, self.weight, self.bias)
        return torch.ops.aten.convolution(
            x, self.weight, self.bias, own.stride, own.padding, own.dilation, own.transposed,
            own.extra if own.transposed else (0,) * len(own.stride), own.groups,
        )  # fmt: skip
