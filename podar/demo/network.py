"""ResNet-20 for 28×28 greyscale pictures, and its weights trained on Fashion-MNIST."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

CHECKPOINT = Path(__file__).with_name("resnet20.safetensors")
RECORD = Path(__file__).with_name("resnet20.json")


class BasicBlock(nn.Module):
    """Two 3×3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != width:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, width, 1, stride, bias=False), nn.BatchNorm2d(width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """The residual network for small pictures of He et al. 2015 (section 4.2), with projection shortcuts.

    **Arguments:**

    - `num_classes`: logits out.
    - `channels`: input channels.
    - `widths`: channels of the stages; every stage after the first halves the picture.
    - `depth`: blocks of a stage.
    """

    def __init__(
        self, num_classes: int = 10, channels: int = 1, widths: tuple[int, ...] = (16, 32, 64), depth: int = 3
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, widths[0], 3, 1, 1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        stages: list[nn.Module] = []
        inputs = widths[0]
        for stage, width in enumerate(widths):
            blocks: list[nn.Module] = []
            for index in range(depth):
                blocks.append(BasicBlock(inputs, width, 2 if stage and not index else 1))
                inputs = width
            stages.append(nn.Sequential(*blocks))
        self.stages = nn.Sequential(*stages)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(inputs, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Pictures [N, channels, H, W], standardised, to logits [N, num_classes]."""
        x = self.stages(self.relu(self.bn(self.conv(x))))
        return self.fc(torch.flatten(self.pool(x), 1))


def build(num_classes: int = 10) -> nn.Module:
    """A fresh ResNet-20 for one-channel pictures: 272,186 parameters at ten classes."""
    return ResNet(num_classes)


def load_trained() -> nn.Module:
    """ResNet-20 as `examples/train_demo.py` trained it on the 60,000 training images of Fashion-MNIST, in eval mode."""
    model = build()
    model.load_state_dict(load_file(CHECKPOINT))
    return model.eval()


def record() -> dict[str, Any]:
    """How the checkpoint came to be: test accuracy, command, versions, seed."""
    return json.loads(RECORD.read_text(encoding="utf-8"))
