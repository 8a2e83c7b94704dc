"""Surgery computes what the mask computes, operator by operator; what cannot go is frozen with a true reason."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from tests.graph.oracle import difference

EXACT = 1e-9


class Net(nn.Module):
    """`stem` makes channels, `body` is what a test looks at, `head` reads them."""

    def __init__(self, stem: nn.Module, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem, self.body, self.head = stem, body, head

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(self.stem(x)))


class Body(nn.Module):
    """A body that is one function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


class Pooled(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(x.flatten(2).mean(2))


def image_net(body: nn.Module | Callable[[Tensor], Tensor], out: int = 8) -> Net:
    body = copy.deepcopy(body) if isinstance(body, nn.Module) else Body(body)
    return Net(nn.Conv2d(3, 8, 3, padding=1), body, Pooled(out)).eval()


IMAGES = torch.zeros(2, 3, 8, 8)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        gate = self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True))))
        return x * torch.sigmoid(gate)


class Shuffled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.groups = 2
        self.conv = nn.Conv2d(8, 8, 3, padding=1, groups=2)

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = self.conv(x).shape
        return self.conv(x).view(n, self.groups, c // self.groups, h, w).transpose(1, 2).reshape(n, c, h, w)


class Filtered(nn.Module):
    """A blur filter that is a buffer, and a scale that is a parameter of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("blur", torch.full((8, 1, 3, 3), 1 / 9))
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        blur = self.blur
        assert isinstance(blur, Tensor)
        return functional.conv2d(x, blur, padding=1, groups=x.shape[1]) * self.scale


BODIES: dict[str, tuple[nn.Module | Callable[[Tensor], Tensor], int]] = {
    "batch norm": (nn.Sequential(nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3)), 12),
    "layer norm": (nn.Sequential(nn.Conv2d(8, 6, 1), Body(lambda x: x.permute(0, 2, 3, 1)), nn.LayerNorm(6),
                                 Body(lambda x: x.permute(0, 3, 1, 2))), 6),
    "group norm": (nn.Sequential(nn.Conv2d(8, 12, 1), nn.GroupNorm(3, 12), nn.SiLU()), 12),
    "sigmoid, whose zero is not zero": (nn.Sequential(nn.Conv2d(8, 6, 1), nn.Sigmoid(), nn.Conv2d(6, 5, 1)), 5),
    "depthwise": (nn.Conv2d(8, 8, 3, groups=8), 8),
    "depthwise, multiplier 2": (nn.Conv2d(8, 16, 3, groups=8), 16),
    "grouped": (nn.Conv2d(8, 12, 3, groups=4), 12),
    "transposed": (nn.ConvTranspose2d(8, 6, 2, 2), 6),
    "transposed depthwise": (nn.ConvTranspose2d(8, 8, 2, 2, groups=8), 8),
    "squeeze-excite": (SqueezeExcite(), 8),
    "channel shuffle by hand": (Shuffled(), 8),
    "channel shuffle": (nn.Sequential(nn.Conv2d(8, 8, 1), nn.ChannelShuffle(2)), 8),
    "pixel shuffle": (nn.PixelShuffle(2), 2),
    "pixel unshuffle": (nn.PixelUnshuffle(2), 32),
    "buffers and loose parameters": (Filtered(), 8),
    "pooling and resizing": (lambda x: functional.interpolate(functional.max_pool2d(x, 2), scale_factor=2), 8),
    "unfold": (lambda x: functional.unfold(x, 3).unsqueeze(-1), 72),
    "a skip": (lambda x: x + functional.relu(x), 8),
    "hardswish": (nn.Hardswish(), 8),
}  # fmt: skip


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("scope", ["local", "global"])
def test_surgery_computes_what_the_mask_computes(name: str, scope: str) -> None:
    body, out = BODIES[name]
    worst, result = difference(
        lambda: image_net(body, out), IMAGES, lambda m, x: podar.prune(m, x, "channels=0.5", scope=scope)
    )
    assert worst < EXACT
    assert result.after.params < result.before.params
    assert not [reason for _, _, reason in result.graph.frozen if "no rule" in reason or "does not cover" in reason]


def test_groups_of_a_convolution_may_lose_different_inputs() -> None:
    torch.manual_seed(3)
    model = Net(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 3, groups=2), Pooled(8)).eval()
    result = podar.prune(model, IMAGES, "channels=0.5", scope="local")
    mask = result.removed_mask("body.weight")
    assert mask.shape == (8, 4, 3, 3)
    kept = ~mask
    assert kept.any(dim=(1, 2, 3)).sum() == 4 and model.get_submodule("body").groups == 2  # pyright: ignore
    assert tuple(model.get_parameter("body.weight").shape) == (4, 2, 3, 3)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (lambda x: x * functional.softmax(x, 1), "normalised over this axis"),
        (lambda x: x * x.mean(1, keepdim=True), "a statistic over this axis"),
        (lambda x: x * x.amax(1, keepdim=True), "a statistic over this axis"),
        (lambda x: x[:, torch.arange(8).flip(0)], "looked up by position"),
        (lambda x: x * torch.arange(8.0).view(8, 1, 1), "meets values that cannot change"),
        (lambda x: torch.special.bessel_j0(x), "no rule for the operator special_bessel_j0 in body"),
    ],
)  # fmt: skip
def test_what_cannot_go_is_frozen_with_its_reason(body: Callable[[Tensor], Tensor], reason: str) -> None:
    graph = podar.trace(image_net(body), IMAGES)
    found = {r for n, d, r in graph.frozen if n == "stem.weight" and d == 0}
    assert len(found) == 1 and reason in found.pop()


def test_macs_by_hand() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False),
        nn.Conv2d(8, 16, 3, padding=2, dilation=2, groups=4, bias=False),
        nn.Flatten(),
        nn.Linear(16 * 16, 10),
    )
    cost = podar.trace(model, torch.zeros(2, 3, 8, 8)).cost()
    assert cost.macs == 2 * (16 * 8 * 27 + 16 * 16 * 2 * 9 + 256 * 10)
    assert cost.params == 8 * 27 + 16 * 2 * 9 + 2560 + 10


def test_macs_agree_with_torch_where_it_counts() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    model = image_net(BODIES["squeeze-excite"][0])
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(IMAGES)
    assert podar.trace(model, IMAGES).cost().macs * 2 == counter.get_total_flops()
