"""Norms that are written by hand lose channels as layer norms do; the same statistics used otherwise freeze them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import podar
from tests.graph.oracle import difference as zeroed
from tests.graph.remaining import difference

EXACT = 1e-9
IMAGES = torch.zeros(2, 3, 6, 6)
Norm = Callable[["Hand", Tensor], Tensor]


class Hand(nn.Module):
    """Eight channels, a norm written by hand with a scale and a shift of its own, and a reader."""

    def __init__(self, norm: Norm, last: bool) -> None:
        super().__init__()
        self.stem, self.head, self.norm, self.last = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 5, 1), norm, last
        shape = (8,) if last else (8, 1, 1)
        self.g, self.b = nn.Parameter(torch.rand(shape) + 0.5), nn.Parameter(torch.rand(shape))
        self.root, self.dim = 8**0.5, -1 if last else 1

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.norm(self, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2) if self.last else self.norm(self, x)
        return self.head(x)


def mean_and_var(m: Hand, x: Tensor) -> Tensor:
    mean, var = x.mean(m.dim, keepdim=True), x.var(m.dim, unbiased=False, keepdim=True)
    return (x - mean) / torch.sqrt(var + 1e-6) * m.g + m.b


def var_mean(m: Hand, x: Tensor) -> Tensor:
    var, mean = torch.var_mean(x, m.dim, correction=0, keepdim=True)
    return (x - mean) * torch.rsqrt(var + 1e-6) * m.g + m.b


def deviation(m: Hand, x: Tensor) -> Tensor:
    return m.g * (x - x.mean(m.dim, keepdim=True)) / (x.std(m.dim, keepdim=True) + 1e-6) + m.b


def convnext(m: Hand, x: Tensor) -> Tensor:
    mean = x.mean(m.dim, keepdim=True)
    return m.g * ((x - mean) / torch.sqrt((x - mean).pow(2).mean(m.dim, keepdim=True) + 1e-6)) + m.b


def difference_of_squares(m: Hand, x: Tensor) -> Tensor:
    mean = x.mean(m.dim, keepdim=True)
    one = (x.square().mean(m.dim, keepdim=True) - mean**2 + 1e-6).rsqrt()
    return (x * one - mean * one) * m.g + m.b


def folded(m: Hand, x: Tensor) -> Tensor:
    mean, var = x.mean(m.dim, keepdim=True), x.var(m.dim, unbiased=False, keepdim=True)
    scale = m.g * (var + 1e-5).rsqrt()
    return x * scale + (m.b - mean * scale)


def minus_the_mean(m: Hand, x: Tensor) -> Tensor:
    minus, var = -x.mean(m.dim, keepdim=True), x.var(m.dim, keepdim=True)
    return (x + minus).mul_(1 / (var + 1e-5).sqrt())


def in_place(m: Hand, x: Tensor) -> Tensor:
    y = x.sigmoid()
    y.sub_(y.mean(m.dim, keepdim=True))
    return y.div_(y.norm(dim=m.dim, keepdim=True).add_(1e-6))


def rms(m: Hand, x: Tensor) -> Tensor:
    y = x.sigmoid()
    return m.g * y * (y * y).mean(m.dim, keepdim=True).add(1e-6).pow(-0.5)


def unit_length(m: Hand, x: Tensor) -> Tensor:
    return functional.normalize(x, dim=m.dim) * m.g * m.root


def unit_sum(m: Hand, x: Tensor) -> Tensor:
    return functional.normalize(x.sigmoid(), p=1.0, dim=m.dim) * m.g


def length(m: Hand, x: Tensor) -> Tensor:
    y = x.sigmoid()
    return y / torch.linalg.vector_norm(y, dim=m.dim, keepdim=True).clamp(min=1e-6) * m.g


def half_precision_length(m: Hand, x: Tensor) -> Tensor:
    y = x.sigmoid()
    return (y / y.to(torch.float64).pow(2).sum(m.dim, keepdim=True).sqrt().to(y.dtype)) * m.g


def squeezed(m: Hand, x: Tensor) -> Tensor:
    return (x - x.mean(m.dim).unsqueeze(m.dim)) / x.std(m.dim).unsqueeze(m.dim) * m.g


def exponentials(m: Hand, x: Tensor) -> Tensor:
    y = torch.exp(x)
    return y / y.sum(m.dim, keepdim=True)


def largest(m: Hand, x: Tensor) -> Tensor:
    return x / (x.abs().amax(m.dim, keepdim=True) + 1e-6) * m.g


def addcdiv(m: Hand, x: Tensor) -> Tensor:
    return torch.addcdiv(m.b, m.g * x.sigmoid(), x.sigmoid().norm(dim=m.dim, keepdim=True))


EITHER = [mean_and_var, var_mean, deviation, convnext, difference_of_squares, folded, minus_the_mean, in_place, rms,
          unit_length, unit_sum, length, half_precision_length, squeezed, exponentials, largest, addcdiv]  # fmt: skip


def response(m: Hand, x: Tensor) -> Tensor:
    size = torch.norm(x, p=2, dim=(2, 3), keepdim=True)
    return m.g * (x * (size / (size.mean(1, keepdim=True) + 1e-6))) + m.b + x


def groups(m: Hand, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.view(n, 2, c // 2, h, w)
    mean, var = y.mean((2, 3, 4), keepdim=True), y.var((2, 3, 4), keepdim=True)
    return ((y - mean) / (var + 1e-5).sqrt()).view(n, c, h, w) * m.g + m.b


def flat_groups(m: Hand, x: Tensor) -> Tensor:
    n, c, h, w = x.shape
    y = x.reshape(n, 2, -1)
    return ((y - y.mean(-1, keepdim=True)) / y.std(-1, keepdim=True)).reshape(n, c, h, w) * m.g + m.b


def whole_picture(m: Hand, x: Tensor) -> Tensor:
    dims = (1, 2, 3)
    return (x - x.mean(dims, keepdim=True)) / x.std(dims, keepdim=True) * m.g


def flat_picture(m: Hand, x: Tensor) -> Tensor:
    y = x.flatten(1)
    return ((y - y.mean(1, keepdim=True)) / y.std(1, keepdim=True)).view_as(x)


def first_space_then_channels(m: Hand, x: Tensor) -> Tensor:
    return x / x.square().mean((2, 3), keepdim=True).mean(1, keepdim=True).add(1e-6).sqrt()


def single_shot(m: Hand, x: Tensor) -> Tensor:
    y = torch.div(x, x.pow(2).sum(1, keepdim=True).sqrt() + 1e-10)
    return m.g.unsqueeze(0).expand_as(y) * y


def over_space(m: Hand, x: Tensor) -> Tensor:
    dims = (2, 3)
    return (x - x.mean(dims, keepdim=True)) / x.var(dims, keepdim=True).add(1e-5).sqrt() * m.g + m.b


FIRST = [response, groups, flat_groups, whole_picture, flat_picture, first_space_then_channels, single_shot, over_space]
CASES = [(norm, last) for norm in EITHER for last in (False, True)] + [(norm, False) for norm in FIRST]


@pytest.mark.parametrize(("norm", "last"), CASES)
@pytest.mark.parametrize("fraction", [0.5, 0.1])
def test_norms_are_taken_over_what_remains(norm: Norm, last: bool, fraction: float) -> None:
    worst, result = difference(lambda: Hand(norm, last), IMAGES, fraction)
    assert worst < EXACT
    assert result.model.stem.out_channels == 4 if fraction == 0.5 else result.model.stem.out_channels <= 2


@pytest.mark.parametrize("norm", [deviation, minus_the_mean, squeezed])
def test_a_variance_keeps_more_than_one_value(norm: Norm) -> None:
    for options in ({"scope": "local"}, {"scope": "global"}, {"scope": "local", "ratios": {"stem": 0.01}}):
        model = Hand(norm, last=False).eval()
        podar.prune(model, IMAGES, "channels=0.01", **options)  # pyright: ignore
        assert model.stem.out_channels == 2 and torch.isfinite(model(torch.randn(2, 3, 6, 6))).all()


OTHERWISE: dict[str, Callable[[Tensor], Tensor]] = {
    "a gate": lambda x: x * x.mean(1, keepdim=True),
    "a gate behind a sigmoid": lambda x: x * torch.sigmoid(x.mean(1, keepdim=True)),
    "what is left of it": lambda x: x * (1 - x.mean(1, keepdim=True)),
    "multiplied with a deviation": lambda x: x * x.std(1, keepdim=True),
    "added": lambda x: x + x.mean(1, keepdim=True),
    "a numerator": lambda x: x.mean(1, keepdim=True) / (x.abs() + 1),
    "joined": lambda x: torch.cat([x, x.amax(1, keepdim=True)], 1)[:, :8],
    "a threshold": lambda x: x * (x > x.mean(1, keepdim=True)),
    "the larger of both": lambda x: torch.maximum(x, x.mean(1, keepdim=True)),
    "scaled once more": lambda x: (x / x.std(1, keepdim=True)) * x.std(1, keepdim=True),
}


@pytest.mark.parametrize("name", OTHERWISE)
def test_used_otherwise_a_statistic_freezes(name: str) -> None:
    graph = podar.trace(Hand(lambda _, x: OTHERWISE[name](x), last=False), IMAGES)
    why = [why for n, d, why in graph.frozen if (n, d) == ("stem.weight", 0)]
    assert len(why) == 1 and "a statistic over this axis at " in why[0]


class Attention(nn.Module):
    """Spatial attention: a layer reads the mean and the largest over channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.gate, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(2, 1, 3, padding=1), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(x * self.gate(seen).sigmoid())


class Told(nn.Module):
    """A norm whose statistic is an output, too."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stem(x)
        length = x.norm(dim=1, keepdim=True, p=1)
        mean = x.mean(1, keepdim=True)
        return self.head((x - mean) / length), mean


class Strange(nn.Module):
    """Values of one axis are divided by a deviation over another one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.other, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 6, 3), nn.Conv2d(6, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.other(x) / self.stem(x).std(1, keepdim=True))


@pytest.mark.parametrize("kind", [Attention, Told, Strange])
def test_what_reads_a_statistic_freezes_it(kind: Callable[[], nn.Module]) -> None:
    graph = podar.trace(kind(), IMAGES)
    assert any((n, d) == ("stem.weight", 0) and "statistic" in why for n, d, why in graph.frozen)


class Standardised(nn.Conv2d):
    """A weight that is computed from a parameter keeps the axes that its statistics are over."""

    def forward(self, input: Tensor) -> Tensor:
        var, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return functional.conv2d(input, (self.weight - mean) / (var + 1e-5).sqrt(), self.bias, padding=1)


def test_standardised_weights_keep_their_inputs() -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(3, 8, 3), Standardised(8, 8, 3), nn.Conv2d(8, 4, 1)).eval()

    worst, result = zeroed(build, IMAGES, lambda m, x: podar.prune(m, x, "channels=0.5", scope="local"))
    assert worst < EXACT
    assert result.model[1].weight.shape == (4, 8, 3, 3)


def test_a_trace_by_a_callable_knows_norms_too() -> None:
    model: Any = Hand(mean_and_var, last=False)
    podar.prune(model, lambda m: m(torch.zeros(2, 3, 6, 6)), "channels=0.5", scope="local")
    assert model.stem.out_channels == 4


def by_sums(x: Tensor, dim: int) -> Tensor:
    c = x.shape[dim]
    x = x - x.sum(dim, keepdim=True) / c
    return x / ((x * x).sum(dim, keepdim=True).div(c) + 1e-6).sqrt()


def sum_in_place(x: Tensor, dim: int) -> Tensor:
    mean = x.sum(dim, keepdim=True)
    mean /= x.size(dim)
    return x - mean


def by_means(x: Tensor, dim: int) -> Tensor:
    x = x - x.mean(dim, keepdim=True)
    return x / ((x * x).mean(dim, keepdim=True) + 1e-6).sqrt()


def twice(x: Tensor, dim: int) -> Tensor:
    mean = x.sum(dim, keepdim=True)
    mean /= x.size(dim)
    mean /= x.size(dim)
    return x - mean


def changed_before(x: Tensor, dim: int) -> Tensor:
    total = x.sum(dim, keepdim=True)
    total += 1
    return x - total / x.size(dim)


MEANS: list[tuple[Any, Any]] = [
    (by_sums, by_means),
    (sum_in_place, lambda x, dim: x - x.mean(dim, keepdim=True)),
]


@pytest.mark.parametrize("activation", [torch.relu, torch.sigmoid])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("pair", MEANS)
def test_a_sum_divided_by_the_size_of_its_axis_is_a_mean(pair: Any, last: bool, activation: Any) -> None:
    """Cut alike, a norm of sums over sizes computes what one of means does."""
    outputs = []
    for norm in pair:
        torch.manual_seed(0)
        model = Hand(lambda m, x, norm=norm: norm(activation(x), m.dim) * m.g + m.b, last)
        podar.prune(model, IMAGES, "channels=0.5", scope="local")
        assert model.stem.out_channels == 4
        outputs.append(model(torch.randn(IMAGES.shape, generator=torch.Generator().manual_seed(1))))
    torch.testing.assert_close(*outputs)


@pytest.mark.parametrize("norm", [twice, changed_before])
def test_what_only_looks_like_a_mean_is_none(norm: Any) -> None:
    graph = podar.trace(Hand(lambda m, x: norm(x.relu(), m.dim) * m.g + m.b, True), IMAGES)
    assert any(name == "stem.weight" and "used as a number" in why for name, _, why in graph.frozen)


@pytest.mark.parametrize(
    "count",
    [
        lambda x, dim: torch.ones_like(x).sum(dim, keepdim=True),
        lambda x, dim: x.new_ones(x.shape).sum(dim, keepdim=True),
        lambda x, dim: torch.full_like(x, 2).norm(dim=dim, keepdim=True),
        lambda x, dim: (torch.ones_like(x) * 3 + 1).sum(dim, keepdim=True),
        lambda x, dim: torch.zeros_like(x).logsumexp(dim, keepdim=True),
        lambda x, dim: (x == x).sum(dim, keepdim=True),
        lambda x, dim: torch.isfinite(x).sum(dim, keepdim=True),
        lambda x, dim: (x.sigmoid() >= 0.0).sum(dim, keepdim=True),
    ],
)
@pytest.mark.parametrize("last", [True, False])
def test_a_width_that_is_counted_is_no_statistic(count: Callable[[Tensor, int], Tensor], last: bool) -> None:
    """Values that are divided by how many there are would be divided by fewer after a cut, whoever counts."""
    model = Hand(lambda m, x: x / count(x, m.dim), last)
    with pytest.raises(podar.errors.PodarError, match="nothing of this model can be cut"):
        podar.prune(model, IMAGES, "channels=0.5", scope="local")
