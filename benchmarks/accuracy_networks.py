"""The networks of accuracy.py, each with a width that can be narrowed, and how they were trained on Fashion-MNIST."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from podar.data import Dataset
from podar.demo import load_trained
from podar.demo.network import ResNet

BATCH = 128


def scaled(width: int, by: float) -> int:
    """A width of the narrowed network."""
    return max(1, round(width * by))


class VGG(nn.Module):
    """Six convolutions with norms, and two linear layers."""

    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 1
        for width in (32, 32, None, 64, 64, None, 128, 128, None):
            if width is None:
                layers.append(nn.MaxPool2d(2))
                continue
            width = scaled(width, by)
            layers += [nn.Conv2d(inputs, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            inputs = width
        hidden = scaled(256, by)
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Flatten(), nn.Linear(inputs * 9, hidden), nn.ReLU(), nn.Linear(hidden, 10))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x))


class SqueezeExcite(nn.Module):
    """A gate for each channel, computed from the means of all."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.a = nn.Conv2d(width, max(1, width // 4), 1)
        self.b = nn.Conv2d(max(1, width // 4), width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.b(torch.relu(self.a(x.mean((2, 3), keepdim=True)))))


class InvertedResidual(nn.Module):
    """Four times as many channels inside, a depthwise convolution, a gate where it is asked for."""

    def __init__(self, inputs: int, outputs: int, stride: int, gate: bool) -> None:
        super().__init__()
        inner = inputs * 4
        self.body = nn.Sequential(
            nn.Conv2d(inputs, inner, 1, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            nn.Conv2d(inner, inner, 3, stride, 1, groups=inner, bias=False),
            nn.BatchNorm2d(inner),
            nn.ReLU6(),
            *([SqueezeExcite(inner)] if gate else []),
            nn.Conv2d(inner, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.residual else self.body(x)


class MobileNet(nn.Module):
    """Like MobileNetV2, with squeeze-excite in its later blocks."""

    def __init__(self, by: float = 1.0) -> None:
        super().__init__()
        inputs = scaled(16, by)
        blocks: list[nn.Module] = [nn.Conv2d(1, inputs, 3, 1, 1, bias=False), nn.BatchNorm2d(inputs), nn.ReLU6()]
        for width, count, stride, gate in ((16, 1, 1, False), (24, 2, 2, False), (40, 3, 2, True), (64, 2, 1, True)):
            for index in range(count):
                blocks.append(InvertedResidual(inputs, scaled(width, by), 1 if index else stride, gate))
                inputs = scaled(width, by)
        last = scaled(192, by)
        blocks += [nn.Conv2d(inputs, last, 1, bias=False), nn.BatchNorm2d(last), nn.ReLU6()]
        self.features = nn.Sequential(*blocks)
        self.fc = nn.Linear(last, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


@dataclass(frozen=True)
class Network:
    """One network of the benchmark.

    **Attributes:**

    - `build`: a fresh one, with all its widths multiplied by a number.
    - `epochs`, `pictures`: how long it was trained, and on how many pictures.
    - `trained`: gives the trained one where it comes with podar; None: it is trained here.
    """

    build: Callable[[float], nn.Module]
    epochs: int
    pictures: int
    trained: Callable[[], nn.Module] | None = None


NETWORKS = {
    "resnet": Network(
        lambda by: ResNet(widths=(scaled(16, by), scaled(32, by), scaled(64, by))), 7, 60_000, load_trained
    ),
    "vgg": Network(VGG, 6, 60_000),
    "mobile": Network(MobileNet, 4, 30_000),
}


def trained(name: str, data: Dataset, folder: Path) -> nn.Module:
    """The trained network: the one that comes with podar, the one in the folder, or one that is trained now."""
    network = NETWORKS[name]
    if network.trained is not None:
        return network.trained()
    file = folder / f"{name}.pt"
    torch.manual_seed(0)
    model = network.build(1.0)
    if file.is_file():
        model.load_state_dict(torch.load(file, weights_only=True))
    else:
        train(model, data, network.epochs, network.pictures)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file)
    return model.eval()


def train(model: nn.Module, data: Dataset, epochs: int, pictures: int) -> None:
    """SGD with momentum, one cycle, bfloat16, half of the batches mirrored."""
    model.to(memory_format=torch.channels_last).train()
    steps = pictures // BATCH
    settings = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4, "nesterov": True}
    optimizer = torch.optim.SGD(model.parameters(), **settings)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.15, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(0)
    for _ in range(epochs):
        order = torch.randperm(pictures, generator=generator)
        for step in range(steps):
            x, y = data.train.batch(order[step * BATCH : (step + 1) * BATCH])
            if torch.rand((), generator=generator) < 0.5:
                x = x.flip(3)
            with torch.autocast("cpu", torch.bfloat16):
                logits = model(x.contiguous(memory_format=torch.channels_last))
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits.float(), y).backward()
            optimizer.step()
            schedule.step()
    model.to(memory_format=torch.contiguous_format)
