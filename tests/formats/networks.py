"""Small real networks for the exporters' tests, with the forms of inputs and outputs that users have."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def awake(model: nn.Module) -> nn.Module:
    """Fresh norms are identities and would hide a mistake in folding them: give them something to do."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_var is not None and module.running_mean is not None
            for values in (module.weight, module.running_var):
                nn.init.uniform_(values, 0.5, 1.5)
            for values in (module.bias, module.running_mean):
                nn.init.uniform_(values, -0.5, 0.5)
    return model


class ConvNet(nn.Module):
    """Convolution, batch norm, relu, a residual, a linear head: one tensor in, one out."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, 5)
        awake(self)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.conv1(image)))
        x = F.relu(self.norm2(self.conv2(x)) + x)
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    """A transformer block with fused qkv and a fused attention kernel."""

    def __init__(self, dim: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.qkv, self.proj = nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor) -> Tensor:
        b, n, d = tokens.shape
        q, k, v = self.qkv(self.norm1(tokens)).reshape(b, n, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        x = tokens + self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, d))
        return x + self.mlp(self.norm2(x))


@dataclass
class Detection:
    scores: Tensor
    boxes: list[Tensor]


class Detector(nn.Module):
    """Two inputs, one nested and one a keyword; an output of a dataclass in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, images: tuple[Tensor, Tensor], *, scale: Tensor, double: bool = False) -> dict[str, object]:
        x = self.body(torch.cat(images, 1)) * scale[:, None, None, None] * (2 if double else 1)
        return {"found": Detection(x.mean((2, 3)), [x.amax((2, 3)), x.amin((2, 3))]), "class": x.flatten(1).argmax(1)}


class Branching(nn.Module):
    """Another function for dark images: torch.export refuses it, TorchScript silently keeps one branch."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(x) if float(x.mean()) > 0 else -self.head(x)
